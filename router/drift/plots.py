"""Calibration and PSI over windows, as a PNG."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from classifier.drift.look import GAP_MARKS, PSI_MARKS
from classifier.evaluation.plots import STYLE
from router.drift.windows import Past

_WORST = 5


def draw(past: Past, path: Path) -> None:
    """PSI of the worst signals above, observed less predicted of each arm below."""
    with matplotlib.rc_context(STYLE):
        canvas = Figure(figsize=(8.4, 6.4), layout="constrained")
        upper, lower = canvas.subplots(2, 1, sharex=True)
        _psi(upper, past)
        _gaps(lower, past)
        canvas.savefig(path, dpi=120, metadata={"Software": None})


def _psi(axes: Axes, past: Past) -> None:
    tops: dict[str, float] = {}
    for each in past.windows:
        for name, value in each.look.psi.items():
            tops[name] = max(tops.get(name, 0.0), value)
    for name in sorted(tops, key=lambda name: -tops[name])[:_WORST]:
        values = [each.look.psi.get(name, float("nan")) for each in past.windows]
        axes.plot(range(len(values)), values, marker="o", ms=3, lw=1.2, label=name)
    for mark in (PSI_MARKS.watch, PSI_MARKS.drifted):
        axes.axhline(mark, color="#777777", ls="--", lw=0.8)
    axes.set_ylabel("PSI beyond noise")
    axes.legend(fontsize=7)


def _gaps(axes: Axes, past: Past) -> None:
    for arm in sorted({arm for each in past.windows for arm in each.look.calibrations}):
        points = [(i, c.gap) for i, each in enumerate(past.windows) if (c := each.look.calibrations.get(arm))]
        axes.plot(*zip(*points, strict=True), marker="o", ms=3, lw=1.2, label=arm)
    axes.axhline(0.0, color="#777777", lw=0.8)
    for mark in (GAP_MARKS.drifted, -GAP_MARKS.drifted):
        axes.axhline(mark, color="#777777", ls="--", lw=0.8)
    axes.set_ylabel("observed less predicted")
    axes.set_xlabel("window, the oldest first")
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=7)
