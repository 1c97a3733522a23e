"""Coverage of the intervals of `acr replay` over simulated logs: docs/replay-coverage.md and its plot."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Annotated

import matplotlib
import numpy as np
import typer
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress

from benchmarks.replay.coverage import DECISIONS, ESTIMATORS, FEEDBACK, MEASURES, RATE, Cell, cells, run
from benchmarks.replay.world import TABLE
from classifier.evaluation.grids import Grid
from classifier.evaluation.plots import STYLE

WANTED = 0.85
NOMINAL = 0.90


def main(
    table: Annotated[Path, typer.Argument(help="Outcome table with samples.")] = TABLE,
    logs: Annotated[int, typer.Option(min=2, help="Simulated logs.")] = 200,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
    out: Annotated[Path, typer.Option(help="Where the page and the plot go.")] = Path("docs"),
) -> None:
    """Simulate logs of the live policy, replay others, count the intervals with the truth inside."""
    console = Console(width=110, highlight=False)
    began = time.monotonic()
    with Progress(console=console, transient=True) as shown:
        task = shown.add_task("logs", total=logs)
        found = cells(table, list(run(table, logs, workers, lambda: shown.advance(task))))
    took_s = time.monotonic() - began
    grids = [together(found), each(found)]
    for grid in grids:
        console.print(grid.rich())
    head = (
        "<!-- Written by `make bench-replay`. -->\n"
        "# How often replay's intervals cover the truth, measured\n\n"
        f"`make bench-replay`: {logs} logs of {DECISIONS:,} decisions each, simulated from `{table}` with "
        f"the shipped policy exploring {RATE:.0%} and feedback on {FEEDBACK:.0%}; the truth of every other "
        f"policy is its exact replay on the whole table. {took_s / 60:.1f} minutes in {workers} processes, "
        f"{os.cpu_count()} cores ({platform.machine()}), other work beside it. [replay.md](replay.md) says "
        "what the estimators are.\n\n![replay-coverage.png](replay-coverage.png)\n\n"
    )
    out.mkdir(parents=True, exist_ok=True)
    page = head + "\n\n".join(grid.markdown() for grid in grids) + "\n"
    (out / "replay-coverage.md").write_text(page, encoding="utf-8")
    draw(found, out / "replay-coverage.png")
    console.print(f"written: {out / 'replay-coverage.md'} and its plot, after {took_s:.0f} s")
    if min(_shares(found).values()) < WANTED:
        raise typer.Exit(1)


def _shares(found: list[Cell]) -> dict[tuple[str, str], float]:
    """Coverage by measure and estimator, over all policies."""
    return {
        (measure, estimator): float(
            np.mean([c.covered for c in found if (c.measure, c.estimator) == (measure, estimator)])
        )
        for measure in MEASURES
        for estimator in ESTIMATORS
    }


def together(found: list[Cell]) -> Grid:
    """Over all policies."""
    shares = _shares(found)
    rows = tuple(
        (measure, *(f"{shares[measure, estimator]:.1%}" for estimator in ESTIMATORS)) for measure in MEASURES
    )
    title = "Share of 90 % intervals with the truth inside, all policies together"
    return Grid(title, ("measure", *(name.upper() for name in ESTIMATORS)), rows)


def each(found: list[Cell]) -> Grid:
    """Policy by policy."""
    rows = tuple(
        (
            c.target,
            c.measure,
            c.estimator.upper(),
            f"{c.covered:.1%}",
            f"{c.truth:.4g}",
            f"{c.bias / c.truth:+.1%}",
            f"{c.width / c.truth:.1%}",
            f"{c.supported:.0%}",
        )
        for c in found
    )
    columns = ("policy", "measure", "estimator", "covered", "truth", "bias", "width", "supported")
    about = (
        "Bias and mean width in parts of the truth; supported: logs of which replay says that they can tell."
    )
    return Grid("Policy by policy", columns, rows, about)


def draw(found: list[Cell], path: Path) -> None:
    """Coverage of every policy, measure and estimator beside what is wanted."""
    targets = list(dict.fromkeys(c.target for c in found))
    with matplotlib.rc_context(STYLE):
        canvas = Figure(figsize=(10.0, 3.2), layout="constrained")
        panels = canvas.subplots(1, len(MEASURES), sharey=True)
        for axes, measure in zip(panels, MEASURES, strict=True):
            for number, estimator in enumerate(ESTIMATORS):
                mine = [c.covered for c in found if (c.measure, c.estimator) == (measure, estimator)]
                axes.plot(
                    mine, np.arange(len(mine)) + 0.18 * (number - 1), "o", ms=5, label=estimator.upper()
                )
            axes.axvline(NOMINAL, color="#777777", ls="--", lw=0.8)
            axes.axvline(WANTED, color="#cc0000", ls=":", lw=0.8)
            axes.set_xlim(0.6, 1.01)
            axes.set_title(measure)
            axes.set_xlabel("intervals with the truth inside")
        panels[0].set_yticks(range(len(targets)), targets)
        panels[0].invert_yaxis()
        panels[-1].legend(fontsize=8, loc="lower left")
        canvas.savefig(path, dpi=120, metadata={"Software": None})


if __name__ == "__main__":
    typer.run(main)
