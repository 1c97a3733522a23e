"""False alarms and power of the drift tests on the recorded table: docs/drift-power.md and its plot."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import matplotlib
import numpy as np
import typer
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track

from benchmarks.drift.streams import settings, windows
from classifier.drift.look import Look
from classifier.errors import ClassifierError
from classifier.evaluation.grids import Grid
from classifier.evaluation.plots import STYLE
from classifier.tables import read_table

TABLE = Path("benchmarks/data/smollm2_135m.jsonl")
SIZES = (100, 200, 300)
Found = dict[tuple[str, int], list[Look]]


def main(
    table: Annotated[Path, typer.Argument(help="Outcome table.")] = TABLE,
    out: Annotated[Path, typer.Option(help="Where the page and the plot go.")] = Path("docs"),
    splits: Annotated[int, typer.Option(min=1, help="Random halves of the table.")] = 10,
    each: Annotated[int, typer.Option(min=1, help="Windows a half, size and scenario.")] = 20,
) -> None:
    """Fit on halves of the table, look at windows of the other halves, count verdicts."""
    console = Console(width=110, highlight=False)
    try:
        read = read_table(table)
    except ClassifierError as error:
        console.print(str(error), style="red", soft_wrap=True)
        raise typer.Exit(2) from None
    found: Found = {}
    steps = track(settings(read, splits), "halves", total=splits, console=console, transient=True)
    for number, setting in enumerate(steps):
        rng = np.random.default_rng(number)
        for size in SIZES:
            for _ in range(each):
                for name, seen in windows(setting, size, rng).items():
                    found.setdefault((name, size), []).append(seen)
    shown = [verdicts(found), reasons(found)]
    for grid in shown:
        console.print(grid.rich())
    out.mkdir(parents=True, exist_ok=True)
    head = (
        "<!-- Written by `make bench-drift`. -->\n# What the drift tests find, measured\n\n"
        f"`make bench-drift`: {splits} random halves of `{table}` ({len(read.items)} prompts), a classifier "
        f"fitted on each, {each} windows of the other half a size and scenario. [drift.md](drift.md) says "
        "what the tests are.\n\n![drift-power.png](drift-power.png)\n\n"
    )
    page = head + "\n\n".join(grid.markdown() for grid in shown) + "\n"
    (out / "drift-power.md").write_text(page, encoding="utf-8")
    draw(found, out / "drift-power.png")
    console.print(f"written: {out / 'drift-power.md'} and its plot")


def verdicts(found: Found) -> Grid:
    """Share of windows that are watched and that are drifted, by scenario and size."""
    rows = []
    for name in dict.fromkeys(name for name, _ in found):
        cells = []
        for size in SIZES:
            looks = found[name, size]
            drifted = np.mean([each.verdict == "drifted" for each in looks])
            watched = np.mean([each.verdict in ("watch", "drifted") for each in looks])
            cells += [f"{drifted:.1%}", f"{watched:.1%}"]
        rows.append((name, *cells))
    columns = [title for size in SIZES for title in (f"{size}: drifted", "watch or drifted")]
    return Grid("Share of windows, by rows a window", ("scenario", *columns), tuple(rows))


def reasons(found: Found) -> Grid:
    """Which kinds of tests the drifted windows of 200 rows rest on."""
    kinds = ("input", "prediction", "tokens", "calibration")
    rows = []
    for name in dict.fromkeys(name for name, _ in found):
        looks = found[name, 200]
        hit: Counter[str] = Counter()
        which: Counter[str] = Counter()
        for each in looks:
            drifted = [f for f in each.findings if f.verdict == "drifted"]
            hit.update({f.kind for f in drifted})
            which.update(f.name for f in drifted)
        most = ", ".join(f"{key} ({count / len(looks):.0%})" for key, count in which.most_common(2))
        rows.append((name, *(f"{hit[kind] / len(looks):.1%}" for kind in kinds), most or "-"))
    return Grid("What drifted in windows of 200", ("scenario", *kinds, "most often"), tuple(rows))


def draw(found: Found, path: Path) -> None:
    names = list(dict.fromkeys(name for name, _ in found))
    with matplotlib.rc_context(STYLE):
        canvas = Figure(figsize=(7.2, 4.2), layout="constrained")
        axes = canvas.subplots()
        for number, size in enumerate(SIZES):
            shares = [np.mean([each.verdict == "drifted" for each in found[name, size]]) for name in names]
            axes.barh(np.arange(len(names)) + 0.25 * (1 - number), shares, 0.24, label=f"{size} rows")
        axes.set_yticks(np.arange(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlabel("share of windows called drifted")
        axes.legend()
        canvas.savefig(path, dpi=120, metadata={"Software": None})


if __name__ == "__main__":
    typer.run(main)
