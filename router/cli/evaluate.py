"""`acr evaluate`: what a classifier is worth on prompts and families it has not seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from classifier.artifact import Artifact
    from classifier.evaluation.study import Study
    from classifier.tables import OutcomeTable


def evaluate_command(
    artifact: Annotated[Path, typer.Argument(help="Directory of the classifier, as `acr train` wrote it.")],
    table: Annotated[Path, typer.Argument(help="Outcome table: JSON lines or Parquet.")],
    arms: Annotated[str | None, typer.Option(help="Two arms, the small one first: small,large.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON alone.")] = False,
    out: Annotated[Path | None, typer.Option(help="Directory for a page, JSON and plots.")] = None,
    robustness: Annotated[
        bool,
        typer.Option(help="How often the chosen arm changes with spaces, case, politeness, context."),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the splits and the intervals.")] = 0,
) -> None:
    """Compare a classifier with fixed arms, kNN, TF-IDF + LR and the oracle, on held-out prompts."""
    # scikit-learn takes a second to import: not before it is needed
    from classifier.artifact import load
    from classifier.errors import ClassifierError
    from classifier.evaluation.pages import as_plain, page
    from classifier.evaluation.plots import draw
    from classifier.evaluation.robustness import robustness as measure
    from classifier.tables import read_table

    said = Console(stderr=True)
    try:
        known = load(artifact)
        named = _named(arms)
        read = read_table(table, arms=named)
        found = _study(known, read, seed, named, said)
        changes = measure(known, read) if robustness else None
        figures = as_plain(found, known.version, read.sha256, changes)
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            plots = draw(found, out)
            (out / "evaluation.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
            (out / "evaluation.md").write_text(page(found, changes, plots), encoding="utf-8")
    except ClassifierError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    except OSError as error:
        typer.echo(f"{out} cannot be written: {error.strerror}; choose another directory", err=True)
        raise typer.Exit(2) from None
    if as_json:
        typer.echo(json.dumps(figures, indent=2))
    else:
        show(found, changes, Console(highlight=False, markup=False))
        if out is not None:
            typer.echo(f"written: {out / 'evaluation.md'}, evaluation.json and the plots")


def _named(arms: str | None) -> tuple[str, str] | None:
    if arms is None:
        return None
    parts = [part.strip() for part in arms.split(",")]
    if len(parts) != 2 or not all(parts) or parts[0] == parts[1]:
        typer.echo(f"--arms {arms!r}: name two arms, the small one first, as in --arms small,large", err=True)
        raise typer.Exit(2)
    return parts[0], parts[1]


def _study(
    artifact: Artifact, table: OutcomeTable, seed: int, named: tuple[str, str] | None, console: Console
) -> Study:
    from classifier.evaluation.study import steps, study

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("fitting on parts of the table", total=steps(table, seed))
        return study(artifact, table, seed, named, done=lambda: progress.advance(bar))


def show(found: Study, changes: Mapping[str, float] | None, console: Console) -> None:
    """Print the notes and every table."""
    from classifier.evaluation.pages import grids

    for note in found.notes:
        console.print(note)
    for grid in grids(found, changes):
        console.print()
        console.print(grid.rich())
