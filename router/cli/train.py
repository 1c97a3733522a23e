"""`acr train`: an outcome table in, a classifier and its held-out figures out."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from classifier.encoded import Encoded
    from classifier.tables import OutcomeTable
    from classifier.train import TrainReport

app = typer.Typer(help="Train the classifier.", add_completion=False)

HoldOut = Annotated[
    float,
    typer.Option(
        min=0.0, max=0.9, help="Share of the prompts to keep out, by their hash, for `acr model promote`."
    ),
]


@app.command("train")
def train_command(
    table: Annotated[
        Path, typer.Argument(help="Outcome table: JSON lines or Parquet, one row a prompt and arm.")
    ],
    out: Annotated[Path, typer.Option(help="Directory of the artifact; one that is there is replaced.")],
    arms: Annotated[str | None, typer.Option(help="Learn these arms alone: a,b,c.")] = None,
    hold_out: HoldOut = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the splits: the same seed gives the same files.")] = 0,
    embedding: Annotated[
        bool, typer.Option("--embedding", help="Ask a sentence encoder too (slow; see docs/embedding.md).")
    ] = False,
) -> None:
    """Train a classifier and say how well it does on prompts and families it has not seen."""
    # scikit-learn takes a second to import: not before it is needed
    from classifier.errors import ClassifierError, MissingArms
    from classifier.tables import read_table
    from classifier.train import train

    try:
        chosen = None if arms is None else [arm.strip() for arm in arms.split(",") if arm.strip()]
        if chosen == []:
            raise MissingArms(f"--arms {arms!r} names no arm; name some, as in --arms small,large")
        rows, held = read_table(table, chosen).hold_back(hold_out)
        encoded = _encoded(rows, out) if embedding else None
        report = train(rows, out, seed, datetime.now(UTC).date().isoformat(), encoded)
    except ClassifierError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    show(report, Console(markup=False))
    if hold_out:
        typer.echo(f"{len(held.items):,} prompts held out, for `acr model promote {out} --table {table}`")


def _encoded(table: OutcomeTable, out: Path) -> Encoded:
    """Raises TableError and ArtifactError as `train` would, ArtifactIncompatible without the extra."""
    from rich.progress import Progress

    from classifier.artifact import check_place
    from classifier.encoded import encode
    from classifier.meaning import installed_encoder

    encoder = installed_encoder()
    table.check_trainable()
    check_place(out)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("encoding prompts", total=len(table.items))
        return encode([item.messages for item in table.items], encoder, lambda n: progress.advance(task, n))


def show(report: TrainReport, console: Console) -> None:
    """Print the counts, the held-out calibration and the routing table."""
    console.print(
        f"{report.rows:,} rows: {report.items:,} prompts of {len(report.families)} families, "
        f"{len(report.arms)} arms",
        highlight=False,
    )
    console.print(_calibration("Held-out prompts", report.held_out_items, report.typical_tokens))
    if report.held_out_families is None:
        console.print("Held-out families: none (the table has fewer than three)")
    else:
        console.print(_calibration("Held-out families", report.held_out_families, report.typical_tokens))
    if report.confidence:
        console.print(_confidence(report))
    if report.frontier:
        console.print(_routing(report))
    console.print(f"classifier {report.version} in {report.artifact}", highlight=False, soft_wrap=True)


def _calibration(title: str, metrics: Mapping[str, Mapping[str, Any]], tokens: Mapping[str, float]) -> Table:
    columns = ("right", "tokens", "Brier", "base", "ECE", "noise", "AUC")
    table = _table(title, "arm", columns)
    table.caption = "base: Brier of the base rate; noise: ECE of a perfect classifier on so few prompts"
    for arm, figures in metrics.items():
        table.add_row(
            arm,
            _figure(figures["base_rate"]),
            f"{tokens[arm]:,.0f}",
            *(_figure(figures[name]) for name in ("brier", "brier_base", "ece", "ece_floor", "auc")),
        )
    return table


def _confidence(report: TrainReport) -> Table:
    table = _table("Confidence in one sample, held-out prompts", "arm", ("prompts", "Brier", "ECE", "AUC"))
    table.caption = "prior: before the sample is seen; a sample that adds nothing to it leaves it as it is"
    for arm, found in report.confidence.items():
        for name in ("prior", "confidence"):
            said = "the prior again" if name == "confidence" and not found["fitted"] else name
            figures = (_figure(found[name][figure]) for figure in ("brier", "ece", "auc"))
            table.add_row(f"{arm}, {said}", f"{found['items']:,}", *figures)
    return table


def _routing(report: TrainReport) -> Table:
    table = _table("Routing held-out prompts", "choice of arm", ("right", "tokens", "best mix", "gain"))
    table.caption = "best mix: what fixed arms mixed at random get right with as many tokens"
    for row in report.frontier:
        gain = row.accuracy - row.mix_accuracy
        table.add_row(
            row.name, _figure(row.accuracy), f"{row.tokens:,.0f}", _figure(row.mix_accuracy), f"{gain:+.3f}"
        )
    return table


def _table(title: str, first: str, columns: tuple[str, ...]) -> Table:
    numbers = [Column(name, justify="right", no_wrap=True) for name in columns]
    named = Column(first, overflow="fold", min_width=16)
    return Table(named, *numbers, title=title, title_justify="left", caption_justify="left", box=SIMPLE)


def _figure(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.3f}"
