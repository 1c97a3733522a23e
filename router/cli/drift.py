"""`acr drift`: whether traffic and predictions are still those that the classifier was trained for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from router.drift.windows import Past


def drift_command(
    log: Annotated[Path, typer.Option(help="Exported decisions: .jsonl, .jsonl.gz or Parquet.")],
    classifier: Annotated[
        Path | None, typer.Option(help="Directory of the classifier; by default the one that is shipped.")
    ] = None,
    window: Annotated[str, typer.Option(help="30m, 6h, 1d, 1w, or a number of decisions.")] = "1d",
    tenant: Annotated[str | None, typer.Option(help="This tenant's decisions alone.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON alone.")] = False,
    out: Annotated[Path | None, typer.Option(help="Directory for drift.json and drift.png.")] = None,
) -> None:
    """Say per window what drifted, since when, and what to do. Ends with 0: ok, 1: drifted, 2: bad input."""
    from classifier.artifact import load
    from classifier.errors import ClassifierError
    from classifier.predictor import DEFAULT_ARTIFACT
    from router.decisions.errors import DecisionLogError
    from router.decisions.files import read_decisions
    from router.drift.errors import DriftError
    from router.drift.plots import draw
    from router.drift.report import as_plain
    from router.drift.windows import Cut, past

    said = Console(stderr=True)
    try:
        cut = Cut.parse(window)
        known = load(DEFAULT_ARTIFACT if classifier is None else classifier)
        with said.status(f"reading {log.name}"):
            found = past(read_decisions(log), known, cut, tenant)
        plain = as_plain(found)
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            (out / "drift.json").write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")
            draw(found, out / "drift.png")
    except (ClassifierError, DecisionLogError, DriftError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    except OSError as error:
        typer.echo(f"{out} cannot be written: {error.strerror}; choose another directory", err=True)
        raise typer.Exit(2) from None
    if as_json:
        typer.echo(json.dumps(plain, indent=2))
    else:
        show(found, Console(highlight=False))
        if out is not None:
            typer.echo(f"written: {out / 'drift.json'} and drift.png")
    if found.newest.look.verdict == "drifted":
        raise typer.Exit(1)


def show(found: Past, console: Console) -> None:
    """Print the verdict, what drifted, the windows and what to do."""
    from router.drift.report import advice, arms_grid, findings_grid, found_now, notes, windows_grid
    from router.drift.windows import day

    newest = found.newest
    console.print(
        f"classifier {found.version}: {newest.look.verdict} in the window from {day(newest.from_ms)} UTC"
    )
    for note in notes(found):
        console.print(f"- {note}", soft_wrap=True)
    grids = [windows_grid(found), arms_grid(found)]
    if found_now(found):
        grids.insert(0, findings_grid(found))
    for grid in grids:
        if grid.rows:
            console.print()
            console.print(grid.rich())
    for line in advice(found):
        console.print(f"- {line}", soft_wrap=True)
