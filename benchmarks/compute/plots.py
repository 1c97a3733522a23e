"""The plots, one function a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from benchmarks.compute import marks
from benchmarks.compute.figures.accuracy import Frontier
from benchmarks.compute.figures.order import Orders
from benchmarks.compute.figures.scaling import Growth
from benchmarks.compute.figures.search import CHARGED, COMPLETION, MAJORITY, Duel
from benchmarks.compute.figures.stopping import Savings
from benchmarks.compute.groups import SIZES
from classifier.evaluation.plots import STYLE


def save(path: Path, size: tuple[float, float], draw: Callable[[Canvas], None]) -> str:
    """Draw one file; its name."""
    with matplotlib.rc_context(STYLE):
        canvas = Canvas(figsize=size, layout="constrained")
        draw(canvas)
        # no date and no version inside: the same table gives the same file
        canvas.savefig(path, dpi=130, metadata={"Software": None})
    return path.name


def accuracy(path: Path, overall: Sequence[Frontier]) -> str:
    def draw(canvas: Canvas) -> None:
        panels = _panels(canvas, len(overall))
        for axes, frontier in zip(panels, overall, strict=True):
            marks.frontier(axes, frontier)
            axes.set_title(frontier.group.name, fontsize=9)
            marks.token_axis(axes, "completion tokens a prompt (log scale)")
        panels[0].set_ylabel("accuracy, %")
        marks.legend(canvas, panels)

    return save(path, (max(8.0, 5.0 * len(overall)), 4.8), draw)


def families(path: Path, by_family: Sequence[Frontier]) -> str:
    columns = min(4, len(by_family))
    rows = -(-len(by_family) // columns)

    def draw(canvas: Canvas) -> None:
        grid = canvas.subplots(rows, columns, squeeze=False, sharey=True).ravel()
        for axes, frontier in zip(grid, by_family, strict=False):
            marks.frontier(axes, frontier)
            axes.set_title(f"{frontier.group.name} ({frontier.group.prompts.size})", fontsize=9)
            marks.token_axis(axes, "")
        for axes in grid[len(by_family) :]:
            axes.set_visible(False)
        marks.legend(canvas, list(grid[: len(by_family)]))
        canvas.supxlabel("completion tokens a prompt (log scale)", fontsize=10)
        canvas.supylabel("accuracy, %", fontsize=10)

    return save(path, (2.9 * columns + 0.5, 2.2 * rows + 1.2), draw)


def scaling(path: Path, growths: Sequence[Growth]) -> str:
    def draw(canvas: Canvas) -> None:
        groups = list(dict.fromkeys(growth.group.name for growth in growths))
        panels = canvas.subplots(len(groups), 2, squeeze=False, sharey="row")
        for row, group in zip(panels, groups, strict=True):
            for axes, measured in zip(row, ("coverage", "majority"), strict=True):
                mine = [g for g in growths if g.group.name == group and g.measure == measured]
                marks.growth(axes, mine)
                axes.set_title(f"{measured} of k samples: {group}", fontsize=9)
                axes.legend(fontsize=7.5, loc="upper left")
            row[0].set_ylabel("%")
        for axes in panels[-1]:
            axes.set_xlabel("samples k (log scale); lines: fitted")

    rows = len({growth.group.name for growth in growths})
    return save(path, (9.6, 3.7 * rows + 0.3), draw)


def stopping(path: Path, measured: Sequence[Savings]) -> str:
    def draw(canvas: Canvas) -> None:
        panels = canvas.subplots(len(measured), 2, squeeze=False, width_ratios=(1, 1.2))
        for row, savings in zip(panels, measured, strict=True):
            names = [saving.rule for saving in savings.rules]
            marks.forest(row[0], names, [s.samples for s in savings.rules], 1.0, "samples: times fewer")
            marks.points(row[1], [s.difference for s in savings.rules], "accuracy against fixed")
            row[0].set_title(f"against fixed {savings.group.depth}: {savings.group.name}", fontsize=9)

    return save(path, (9.6, 2.8 * len(measured) + 0.4), draw)


def order(path: Path, measured: Sequence[Orders]) -> str:
    def draw(canvas: Canvas) -> None:
        panels = canvas.subplots(len(measured), 2, squeeze=False, width_ratios=(1, 1.2))
        for row, orders in zip(panels, measured, strict=True):
            countings = orders.countings
            names, lengths = [c.order for c in countings], [c.length for c in countings]
            marks.forest(row[0], names, lengths, lengths[0].value, "length of a counted sample / pool's")
            marks.points(row[1], [c.difference for c in countings], "accuracy against the order-free draw")
            row[0].set_title(f"at most {orders.group.depth}: {orders.group.name}", fontsize=9)

    return save(path, (9.6, 2.4 * len(measured) + 0.4), draw)


def search(path: Path, duels: Sequence[Duel]) -> str:
    """The arms that were recorded on the same prompts beside the curves of these."""
    shared: dict[bytes, list[Duel]] = {}
    for duel in duels:
        shared.setdefault(duel.group.prompts.tobytes(), []).append(duel)

    def draw(canvas: Canvas) -> None:
        panels = canvas.subplots(len(shared), 2, squeeze=False, sharey="row")
        for row, mine in zip(panels, shared.values(), strict=True):
            for axes, counting in zip(row, (COMPLETION, CHARGED), strict=True):
                for curve in mine[0].curves:
                    shown = [k - 1 for k in SIZES if k <= mine[0].group.depth]
                    marks.line(axes, curve.tokens[counting][:, shown], curve.accuracy[:, shown], curve.name)
                for duel, mark in zip(mine, marks.MARKS, strict=False):
                    at = duel.match(MAJORITY, counting)
                    marks.cross(axes, at.tokens, duel.accuracy, "#000000", mark, duel.arm)
                least = ", at least" if counting == CHARGED and any(duel.least for duel in mine) else ""
                marks.token_axis(axes, f"{counting} tokens a prompt{least} (log scale)")
                axes.set_title(f"{mine[0].group.prompts.size} prompts, {counting} tokens", fontsize=9)
            row[0].set_ylabel("accuracy, %")
            row[0].legend(fontsize=7.5, loc="best")

    return save(path, (9.6, 3.7 * len(shared) + 0.3), draw)


def _panels(canvas: Canvas, count: int) -> list[Axes]:
    return list(canvas.subplots(1, count, squeeze=False).ravel())
