"""Frontiers and reliability diagrams as PNG: the same study gives the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from classifier.evaluation.pages import views
from classifier.evaluation.standing import MIX, ORACLE, Field
from classifier.evaluation.study import Study, View

STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "legend.frameon": False,
}
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7f5f2a")
_BINS = 10


def draw(study: Study, out: Path, stem: str = "evaluation") -> list[str]:
    """Write the plots into `out`; their names."""
    shown = [(title, view.field) for title, view in views(study) if view.field is not None]
    names = []
    if shown:
        names.append(draw_frontiers(shown, out / f"{stem}-frontier.png"))
    if study.items.curves:
        names.append(_save(out / f"{stem}-calls.png", len(views(study)), lambda f: _calls(f, study)))
    count = len(views(study))
    names.append(_save(out / f"{stem}-reliability.png", count, lambda f: _reliabilities(f, study)))
    return names


def draw_frontiers(
    shown: list[tuple[str, Field]], path: Path, tokens: str = "completion tokens a prompt"
) -> str:
    """Accuracy against tokens, a panel each of these titles and fields; the file's name."""
    return _save(path, len(shown), lambda canvas: _frontiers(canvas, shown, tokens))


def _save(path: Path, panels: int, paint: Callable[[Figure], None]) -> str:
    with matplotlib.rc_context(STYLE):
        canvas = Figure(figsize=(5.2 * panels, 4.4), layout="constrained")
        paint(canvas)
        # no date and no version inside
        canvas.savefig(path, dpi=120, metadata={"Software": None})
    return path.name


def _panels(canvas: Figure, count: int) -> list[Axes]:
    return list(canvas.subplots(1, count, squeeze=False, sharey=True).ravel())


def _frontiers(canvas: Figure, shown: list[tuple[str, Field]], tokens: str) -> None:
    panels = _panels(canvas, len(shown))
    for axes, (title, field) in zip(panels, shown, strict=True):
        colours = iter(_COLOURS)
        for standing in field.standings:
            style: dict[str, Any] = {"color": next(colours, "#999999"), "lw": 1.6}
            if standing.name == MIX:
                style = {"color": "#777777", "lw": 1.2, "ls": "--"}
            elif standing.name == ORACLE:
                style = {"color": "#000000", "lw": 1.2, "ls": ":"}
            axes.plot(standing.curve.tokens, standing.curve.accuracy, label=standing.name, **style)
        for point in field.points:
            x, y = point.tokens.value or 0.0, point.accuracy
            if point.name.startswith(("oracle", "random")):
                continue
            ends = [[(y.value or 0) - (y.low or 0)], [(y.high or 0) - (y.value or 0)]]
            axes.errorbar(x, y.value or 0.0, yerr=ends, fmt="o", color="#444444", ms=4, lw=0.8)
            axes.annotate(
                point.name.split(" (")[0],
                (x, y.value or 0.0),
                fontsize=7,
                xytext=(4, -9),
                textcoords="offset points",
            )
        axes.set_xscale("log")
        axes.set_title(f"{title} ({field.prompts:,} prompts)", fontsize=9)
        axes.set_xlabel(f"{tokens} (log scale)")
    panels[0].set_ylabel("right")
    panels[0].legend(fontsize=8)


def _calls(canvas: Figure, study: Study) -> None:
    panels = _panels(canvas, len(views(study)))
    for axes, (title, view) in zip(panels, views(study), strict=True):
        for colour, (name, (share, pgr)) in zip(_COLOURS, view.curves.items(), strict=False):
            axes.plot(share, pgr, color=colour, label=name, lw=1.4)
        axes.plot([0, 1], [0, 1], color="#777777", ls="--", lw=1, label="random")
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("share of calls to the large arm")
    panels[0].set_ylabel("performance gap recovered")
    panels[0].legend(fontsize=8)


def _reliabilities(canvas: Figure, study: Study) -> None:
    panels = _panels(canvas, len(views(study)))
    for axes, (title, view) in zip(panels, views(study), strict=True):
        _reliability(axes, study, view)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel(f"predicted p(success), {_BINS} bins of equal mass")
    panels[0].set_ylabel("right")
    panels[0].legend(fontsize=7)


def _reliability(axes: Axes, study: Study, view: View) -> None:
    axes.plot([0, 1], [0, 1], color="#777777", ls="--", lw=1)
    for column, arm in enumerate(study.arms):
        known = ~np.isnan(view.scores[:, column])
        p, y = view.p[known, column], view.scores[known, column]
        parts = [part for part in np.array_split(np.argsort(p, kind="stable"), _BINS) if part.size]
        x, right = [float(p[part].mean()) for part in parts], [float(y[part].mean()) for part in parts]
        axes.plot(x, right, marker="o", ms=3, lw=1, label=arm)
