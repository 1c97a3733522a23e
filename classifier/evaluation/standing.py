"""Where everybody stands on the held-out prompts: accuracy against tokens, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from classifier.evaluation.curves import Curve, Path, fixed, route
from classifier.evaluation.intervals import Interval, interval, weights
from classifier.evaluation.splits import Beliefs

Matrix = NDArray[np.float64]

MIX, ORACLE = "random mixing", "oracle"


@dataclass(frozen=True, slots=True)
class Standing:
    """One contender's figures; accuracies are shares, tokens are completion tokens a prompt.

    `area`: mean accuracy over budgets from the cheapest arm's tokens to the dearest's. `gain`: its area
    less that of random mixing. `gap_closed`: that gain as a share of the oracle's. `at_best`: accuracy at
    the best fixed arm's tokens. `gap_at_best`: share closed there of the oracle's lead over that arm.
    `tokens_at_best`: the fewest tokens at its accuracy, as a share of its own; None where never reached.
    """

    name: str
    curve: Curve
    area: Interval
    gain: Interval
    gap_closed: Interval
    at_best: Interval
    gap_at_best: Interval
    tokens_at_best: Interval


@dataclass(frozen=True, slots=True)
class Point:
    """One fixed choice: accuracy and tokens."""

    name: str
    accuracy: Interval
    tokens: Interval


@dataclass(frozen=True, slots=True)
class Field:
    """All on the `prompts` prompts that have every arm. `ahead`: the router's area less another's, paired."""

    prompts: int
    best: str
    points: tuple[Point, ...]
    standings: tuple[Standing, ...]
    ahead: Mapping[str, Interval]


@dataclass(frozen=True, slots=True)
class _Figures:
    curve: Curve
    area: float
    at_best: float
    tokens_for_best: float | None


def compare(
    arms: Sequence[str],
    beliefs: Mapping[str, Beliefs],
    scores: Matrix,
    tokens: Matrix,
    seed: int,
    router: str,
    *,
    prompts: NDArray[np.intp] | None = None,
    carried: Mapping[str, Path] | None = None,
) -> Field | None:
    """Everyone on the prompts that have every arm; None if there are fewer than two of them.

    `scores`, `tokens` (n, arms) as recorded, NaN where missing. `prompts` (n,) says which rows are the same
    prompt, predicted more than once; each row is another where it is left out. `carried` are what others
    than believers got and spent on the rows. Intervals resample prompts; the best fixed arm and the arms
    that are mixed stay those of all prompts.
    """
    full = ~np.isnan(scores).any(axis=1)
    if np.count_nonzero(full) < 2:
        return None
    s, t = scores[full], tokens[full]
    names, row_of = np.unique(
        (np.arange(len(scores)) if prompts is None else prompts)[full], return_inverse=True
    )
    drawn = weights(len(names), seed)[:, row_of] / np.bincount(row_of)[row_of]
    accuracy, cost = s.mean(axis=0), t.mean(axis=0)
    # of equally accurate arms the cheaper is the best
    best = min(range(len(arms)), key=lambda a: (-accuracy[a], cost[a]))
    paths = {MIX: fixed(s, t)}
    paths |= {name: route(b.p[full], b.tokens[full], s, t) for name, b in beliefs.items()}
    paths |= {name: Path(path.got[full], path.spent[full]) for name, path in (carried or {}).items()}
    paths[ORACLE] = route(s, t, s, t)
    every = np.concatenate([1.0 / (np.bincount(row_of)[row_of] * len(names))[None], drawn])
    means_s, means_t = every @ s, every @ t
    figures = {
        name: _figures(path, every, means_s[:, best], means_t[:, best], means_t)
        for name, path in paths.items()
    }
    return Field(
        prompts=len(names),
        best=arms[best],
        points=tuple(_points(arms, means_s, means_t, s, t, every)),
        standings=tuple(_standing(name, figures, means_s[:, best], means_t[:, best]) for name in figures),
        ahead={
            name: interval(*_head(_areas(figures[router]) - _areas(figures[name])))
            for name in figures
            if name not in (router, ORACLE)
        },
    )


def _figures(path: Path, every: Matrix, best: Matrix, spent: Matrix, cost: Matrix) -> list[_Figures]:
    """For all prompts and then each resample."""
    got, used = every @ path.got, every @ path.spent
    found = []
    for row in range(len(every)):
        curve = Curve.of(got[row], used[row])
        low, high = float(cost[row].min()), float(cost[row].max())
        area = curve.area(low, high)
        found.append(_Figures(curve, area, curve.at(float(spent[row])), curve.tokens_for(float(best[row]))))
    return found


def _standing(name: str, figures: Mapping[str, list[_Figures]], best: Matrix, spent: Matrix) -> Standing:
    mine, mix, oracle = figures[name], figures[MIX], figures[ORACLE]
    area, mixed, known = _areas(mine), _areas(mix), _areas(oracle)
    at = np.array([f.at_best for f in mine])
    lead = np.array([f.at_best for f in oracle]) - best
    tokens = np.array([np.nan if f.tokens_for_best is None else f.tokens_for_best for f in mine])
    with np.errstate(divide="ignore", invalid="ignore"):
        closed, there, share = (area - mixed) / (known - mixed), (at - best) / lead, tokens / spent
    return Standing(
        name=name,
        curve=mine[0].curve,
        area=interval(*_head(area)),
        gain=interval(*_head(area - mixed)),
        gap_closed=interval(*_head(closed)),
        at_best=interval(*_head(at)),
        gap_at_best=interval(*_head(there)),
        tokens_at_best=interval(*_head(share)),
    )


def _points(
    arms: Sequence[str], means_s: Matrix, means_t: Matrix, s: Matrix, t: Matrix, every: Matrix
) -> list[Point]:
    """Every fixed arm, cheapest first, an arm drawn at random, and the cheapest right arm of each prompt."""
    order = np.argsort(means_t[0], kind="stable")
    labels = {int(order[0]): "all-cheap", int(order[-1]): "all-dear"}
    best = min(range(len(arms)), key=lambda a: (-means_s[0, a], means_t[0, a]))
    labels[best] = f"{labels[best]}, all-best" if best in labels else "all-best"
    found = []
    for a in order:
        name = f"{arms[a]} ({labels[int(a)]})" if int(a) in labels else arms[a]
        found.append(Point(name, interval(*_head(means_s[:, a])), interval(*_head(means_t[:, a]))))
    spots = [("random arm", s.mean(axis=1), t.mean(axis=1))]
    top = s.max(axis=1, keepdims=True)
    choice = np.argmin(np.where((s >= top) | (top < 0.5), t, np.inf), axis=1)
    rows = np.arange(len(s))
    spots.append(("oracle (cheapest right arm)", s[rows, choice], t[rows, choice]))
    for name, got, used in spots:
        found.append(Point(name, interval(*_head(every @ got)), interval(*_head(every @ used))))
    return found


def _areas(figures: list[_Figures]) -> Matrix:
    return np.array([f.area for f in figures])


def _head(values: Matrix) -> tuple[float, Matrix]:
    return float(values[0]), values[1:]
