"""What the plots are drawn with: marks and dashes that differ as colours do, so that they read in grey."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from benchmarks.compute.bootstrap import Interval, mean
from benchmarks.compute.curves import coverage_curve, majority_curve
from benchmarks.compute.figures.accuracy import Frontier
from benchmarks.compute.figures.scaling import Growth
from benchmarks.compute.groups import SIZES
from benchmarks.compute.table import Floats

# kind of outcome: label, colour, mark, dashes; colours are those of Okabe and Ito
STYLES = {
    "majority": ("majority of k", "#0072B2", "o", "-"),
    "adaptive": ("adaptive", "#D55E00", "s", "--"),
    "weighted": ("weighted by likelihood", "#009E73", "^", ":"),
    "best": ("best of n by likelihood", "#666666", "v", "-."),
}
MARKS = "DPX*<>hp"


def legend(canvas: Canvas, panels: Sequence[Axes]) -> None:
    """One legend above all panels, each label once."""
    named: dict[str, Any] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    canvas.legend(named.values(), named.keys(), loc="outside upper center", ncols=5, fontsize=8.5)


def frontier(axes: Axes, told: Frontier) -> None:
    one = told.named("one")
    for kind in STYLES:
        mine = [o for o in told.outcomes if o.kind == kind]
        if kind == "majority" and one is not None:
            mine = [one, *mine]
        if mine:
            tokens = np.stack([o.tokens for o in mine], axis=1)
            accuracy = np.stack([o.accuracy for o in mine], axis=1)
            line(axes, tokens, accuracy, kind)
    arms = [o for o in told.outcomes if o.kind in ("recorded", "search")]
    for outcome, mark in zip(arms, MARKS * (1 + len(arms) // len(MARKS)), strict=False):
        colour = "#000000" if outcome.kind == "recorded" else "#CC79A7"
        cross(axes, mean(outcome.tokens), mean(outcome.accuracy), colour, mark, outcome.name)


def line(axes: Axes, tokens: Floats, accuracy: Floats, kind: str) -> None:
    """Means over prompts of (prompts, sizes); of the majority also the interval of accuracy, as a band."""
    label, colour, mark, dashes = STYLES[kind]
    at, told = tokens.mean(axis=0), [mean(column) for column in accuracy.T]
    heights = [100 * t.value for t in told]
    axes.plot(at, heights, dashes, color=colour, marker=mark, markersize=4, linewidth=1.3, label=label)
    if kind == "majority":
        low, high = [100 * t.low for t in told], [100 * t.high for t in told]
        axes.fill_between(at, low, high, color=colour, alpha=0.13, linewidth=0)


def cross(axes: Axes, tokens: Interval, accuracy: Interval, colour: str, mark: str, label: str) -> None:
    axes.errorbar(
        tokens.value,
        100 * accuracy.value,
        xerr=_arms(tokens, 1.0),
        yerr=_arms(accuracy, 100.0),
        color=colour,
        marker=mark,
        markersize=6,
        linewidth=0.9,
        linestyle="none",
        label=label,
    )


def points(axes: Axes, told: Sequence[Interval], label: str) -> None:
    """Differences of accuracy; a point either side is always shown, so that dust does not look like much."""
    forest(axes, [""] * len(told), told, 0.0, f"{label}, percentage points", scale=100.0)
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, -1.0), max(high, 1.0))


def forest(
    axes: Axes, names: Sequence[str], told: Sequence[Interval], at: float, label: str, *, scale: float = 1.0
) -> None:
    """One interval a line, the first on top, beside a line at `at`."""
    axes.axvline(at, color="#999999", linewidth=0.8)
    for line, interval in enumerate(told):
        arms = _arms(interval, scale)
        axes.errorbar(scale * interval.value, line, xerr=arms, color="#0072B2", marker="o", capsize=3)
    axes.set_yticks(range(len(told)), names)
    axes.set_ylim(len(told) - 0.5, -0.5)
    axes.set_xlabel(label)


def growth(axes: Axes, mine: Sequence[Growth]) -> None:
    for growth, (_, colour, mark, dashes) in zip(mine, list(STYLES.values()) * len(mine), strict=False):
        depth = growth.group.depth
        sizes = np.array([k for k in SIZES if k <= depth])
        told = [mean(growth.values[:, k - 1]) for k in sizes]
        heights = [100 * t.value for t in told]
        errors = np.hstack([_arms(t, 100.0) for t in told])
        label = "all prompts" if growth.part == "all" else growth.part
        axes.errorbar(
            sizes,
            heights,
            yerr=errors,
            color=colour,
            marker=mark,
            linestyle="none",
            markersize=4,
            label=label,
        )
        along = np.geomspace(1, depth, 60)
        curve = coverage_curve if growth.measure == "coverage" else majority_curve
        fitted = curve(along, *growth.fitted.parameters)[0]
        axes.plot(along, 100 * fitted, color=colour, linestyle=dashes, linewidth=1.2)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda k, _: f"{k:g}"))


def token_axis(axes: Axes, label: str) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tokens, _: f"{tokens:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel(label)


def _arms(told: Interval, scale: float) -> Floats:
    """Lengths below and above the value, (2, 1), as matplotlib wants them."""
    low, high = scale * (told.value - told.low), scale * (told.high - told.value)
    return np.asarray(np.nan_to_num(np.array([[max(low, 0.0)], [max(high, 0.0)]])))
