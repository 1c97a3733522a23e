"""A log's replay as a PNG: each estimator's interval beside what the log was."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from classifier.evaluation.plots import STYLE
from router.replay.study import ESTIMATORS, Figure, LogStudy

_SHOWN = ("accuracy", "tokens", "cost_usd", "consistency")
_COLOURS = {"logged": "#777777", "ips": "#0072b2", "snips": "#d55e00", "dr": "#009e73"}


def draw(study: LogStudy, path: Path) -> None:
    """One panel a measure."""
    figures = {name: study.figures[name] for name in _SHOWN if name in study.figures}
    with matplotlib.rc_context(STYLE):
        canvas = Canvas(figsize=(3.0 * max(1, len(figures)), 2.4), layout="constrained")
        panels = canvas.subplots(1, max(1, len(figures)), squeeze=False, sharey=True).ravel()
        for axes, (name, figure) in zip(panels, figures.items(), strict=False):
            _panel(axes, name, figure)
        canvas.savefig(path, dpi=120, metadata={"Software": None})


def _panel(axes: Axes, name: str, figure: Figure) -> None:
    rows = ("logged", *ESTIMATORS)
    for at, row in enumerate(rows):
        found = getattr(figure, row)
        if found.value == found.value:
            axes.plot([found.low, found.high], [at, at], color=_COLOURS[row], lw=1.6)
            axes.plot(found.value, at, "o", color=_COLOURS[row], ms=5)
    axes.set_yticks(range(len(rows)), ["log", "IPS", "SNIPS", "DR"])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_title(name, fontsize=9)
    axes.tick_params(axis="x", labelsize=7)
