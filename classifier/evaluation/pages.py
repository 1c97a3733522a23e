"""A study as tables, as a page in Markdown and as plain data for JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from classifier.artifact import finite
from classifier.evaluation.grids import Grid, figure, told
from classifier.evaluation.standing import Field, Point, Standing
from classifier.evaluation.study import Study, View

_AREA = (
    "Area: mean accuracy over all budgets from the cheapest arm's tokens to the dearest's. Gain: area less "
    "random mixing's. Gap closed: gain as a share of the oracle's. Brackets: 95 % intervals over prompts."
)
_CALIBRATION = ("base_rate", "brier", "brier_base", "ece", "ece_floor", "ece_noise_95", "auc")
_EQUAL = (
    "At the best arm's tokens: accuracy, and the share of the oracle's lead over that arm. Tokens at its "
    "accuracy: the fewest, as a share of its own; a dash: never reached."
)


def views(study: Study) -> list[tuple[str, View]]:
    """The ways of holding out that the table allows, with their titles."""
    found = [("held-out prompts", study.items)]
    if study.other_families is not None:
        found.append(("held-out families", study.other_families))
    return found


def grids(study: Study, changes: Mapping[str, float] | None = None) -> list[Grid]:
    """Every table of a study, in order."""
    found = []
    for title, view in views(study):
        if view.field is not None:
            found += [_points(title, view.field), *frontier_grids(title, view.field)]
        if view.pairs:
            found.append(_pairs(title, view))
        found.append(_calibration(title, study, view))
    if changes is not None:
        rows = tuple((name, f"{share:.1%}") for name, share in changes.items())
        found.append(Grid("Chosen arm changes under", ("change of the text", "share of prompts"), rows))
    return found


def frontier_grids(title: str, field: Field) -> list[Grid]:
    """Areas under the frontiers, and what is reached beside the best fixed arm."""
    return [_areas(title, field), _equal(title, field)]


def page(study: Study, changes: Mapping[str, float] | None, plots: Sequence[str]) -> str:
    """Markdown: notes, plots, tables."""
    parts = ["# Evaluation", *study.notes, *(f"![{plot}]({plot})" for plot in plots)]
    return "\n\n".join([*parts, *(grid.markdown() for grid in grids(study, changes))]) + "\n"


def _points(title: str, field: Field) -> Grid:
    def row(point: Point) -> tuple[str, ...]:
        return (point.name, told(point.accuracy), told(point.tokens, 0))

    rows = tuple(row(point) for point in field.points)
    return Grid(f"Fixed choices, {title} ({field.prompts:,})", ("choice", "right", "tokens"), rows)


def _areas(title: str, field: Field) -> Grid:
    def row(s: Standing) -> tuple[str, ...]:
        return (s.name, told(s.area), told(s.gain, sign=True), told(s.gap_closed))

    rows = tuple(row(standing) for standing in field.standings)
    return Grid(f"Frontier, {title}", ("contender", "area", "gain", "gap closed"), rows, _AREA)


def _equal(title: str, field: Field) -> Grid:
    def row(s: Standing) -> tuple[str, ...]:
        return (s.name, told(s.at_best), told(s.gap_at_best), told(s.tokens_at_best))

    rows = tuple(row(standing) for standing in field.standings)
    columns = ("contender", "right at its tokens", "gap closed there", "tokens at its accuracy")
    return Grid(f"Against the best fixed arm ({field.best}), {title}", columns, rows, _EQUAL)


def _pairs(title: str, view: View) -> Grid:
    rows = tuple(
        (name, *(told(found[figure_]) for figure_ in ("apgr", "cpt50", "cpt80")))
        for name, found in view.pairs.items()
    )
    about = "As RouteLLM (arXiv 2406.18665); CPT as a share of calls to the large arm."
    return Grid(f"Two arms, {title}", ("contender", "APGR", "CPT(50 %)", "CPT(80 %)"), rows, about)


def _calibration(title: str, study: Study, view: View) -> Grid:
    rows = tuple(
        (
            arm,
            name,
            *(figure(told_[key]) for key in _CALIBRATION),
        )
        for arm in study.arms
        for name, metrics in view.metrics.items()
        if (told_ := metrics[arm])
    )
    columns = ("arm", "contender", "right", "Brier", "base's", "ECE", "noise", "95 %", "AUC")
    about = (
        "ECE over 15 bins of equal mass; noise: what a perfectly calibrated classifier would show on so few "
        "prompts, on average, and what one in 20 of them would exceed."
    )
    return Grid(f"Calibration, {title}", columns, rows, about)


def as_plain(
    study: Study, version: str, table_sha256: str, changes: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """For JSON: `apgr`, `cpt50`, `cpt80` at the top are the held-out prompts' of `contender` (null without
    two arms, CPT as shares of calls in [0, 1])."""
    pair = study.items.pairs.get(study.contender, {})
    plain: dict[str, Any] = {
        "classifier": version,
        "table_sha256": table_sha256,
        "subject": study.subject,
        "contender": study.contender,
        "notes": list(study.notes),
        "arms": list(study.arms),
        "prompts": study.prompts,
        "families": study.families,
        **{name: pair[name].value if name in pair else None for name in ("apgr", "cpt50", "cpt80")},
        "robustness": None if changes is None else dict(changes),
    }
    for title, view in (("held_out_items", study.items), ("held_out_families", study.other_families)):
        plain[title] = None if view is None else _view(view)
    shown: dict[str, Any] = finite(plain)
    return shown


def _view(view: View) -> dict[str, Any]:
    field = view.field
    plain: dict[str, Any] = {
        "calibration": view.metrics,
        "pairs": {n: {k: v.plain() for k, v in found.items()} for n, found in view.pairs.items()},
    }
    return plain if field is None else plain | field_plain(field)


def field_plain(field: Field) -> dict[str, Any]:
    """For JSON: fixed choices, contenders with their curves, and by how much the router is ahead."""
    return {
        "prompts": field.prompts,
        "best_fixed_arm": field.best,
        "points": [
            {"name": p.name, "accuracy": p.accuracy.plain(), "tokens": p.tokens.plain()} for p in field.points
        ],
        "contenders": {s.name: _standing(s) for s in field.standings},
        "ahead_of": {name: found.plain() for name, found in field.ahead.items()},
    }


def _standing(s: Standing) -> dict[str, Any]:
    names = ("area", "gain", "gap_closed", "at_best", "gap_at_best", "tokens_at_best")
    curve = zip(s.curve.tokens.tolist(), s.curve.accuracy.tolist(), strict=True)
    figures: dict[str, Any] = {name: getattr(s, name).plain() for name in names}
    return {**figures, "curve": [{"tokens": t, "accuracy": a} for t, a in curve]}
