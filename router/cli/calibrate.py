"""`acr calibrate`: the same classifier, its probabilities put right on another table."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from router.cli.train import HoldOut


def calibrate_command(
    artifact: Annotated[Path, typer.Argument(help="Directory of the classifier; it stays as it is.")],
    table: Annotated[Path, typer.Argument(help="Outcome table of prompts that it was not trained on.")],
    out: Annotated[Path, typer.Option(help="Directory of the new artifact.")],
    hold_out: HoldOut = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the splits behind the figures.")] = 0,
) -> None:
    """Fit only the calibration of a classifier again, on other outcomes, into a new artifact."""
    # scikit-learn takes a second to import: not before it is needed
    from classifier.artifact import load
    from classifier.errors import ClassifierError
    from classifier.evaluation.grids import Grid, figure
    from classifier.recalibrate import recalibrate
    from classifier.tables import read_table

    try:
        date = datetime.now(UTC).date().isoformat()
        found = recalibrate(load(artifact), read_table(table).hold_back(hold_out)[0], out, seed, date)
    except ClassifierError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    console = Console(highlight=False, markup=False)
    if found.seen:
        console.print(f"{found.seen:,} prompts were left out: the classifier was trained on them.")
    rows = tuple(
        (
            arm,
            c.method,
            *(figure(v) for v in (c.brier_before, c.brier_after, c.ece_before, c.ece_after, c.ece_floor)),
        )
        for arm, c in found.changes.items()
    )
    columns = ("arm", "method", "Brier", "now", "ECE", "now", "noise")
    about = "Held out, before and now; noise: the ECE of a perfect classifier on so few prompts."
    console.print(Grid(f"Calibration on {found.items:,} prompts", columns, rows, about).rich())
    if found.left:
        console.print(f"As they were, for want of rows: {', '.join(found.left)}.")
    console.print(f"classifier {found.version} in {out}", soft_wrap=True)
