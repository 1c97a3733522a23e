"""Accuracy against tokens as a curve: how far a contender gets with any budget."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

_PRICES = 60


@dataclass(frozen=True, slots=True)
class Path:
    """What is got and spent a prompt at each price, from dear (cheap arms) to free: (n, prices) each."""

    got: Matrix
    spent: Matrix


def route(p: Matrix, expected: Matrix, scores: Matrix, tokens: Matrix) -> Path:
    """Choose argmax p - price * expected for prices from "only tokens matter" to 0. All are (n, arms)."""
    at = np.arange(len(p))
    got, spent = [], []
    for price in _prices(p, expected):
        # of equal ones the cheaper; price infinity is the cheapest of all
        worth = -expected if np.isinf(price) else p - price * expected - 1e-12 * expected
        choice = np.argmax(worth, axis=1)
        got.append(scores[at, choice])
        spent.append(tokens[at, choice])
    return Path(np.stack(got, axis=1), np.stack(spent, axis=1))


def _prices(p: Matrix, expected: Matrix) -> list[float]:
    """Prices at which choices change: quantiles of gain a token between arms."""
    rates = []
    for a in range(p.shape[1]):
        for b in range(p.shape[1]):
            more = expected[:, b] - expected[:, a]
            gain = p[:, b] - p[:, a]
            worth = (more > 1e-9) & (gain > 0.0)
            rates.append(gain[worth] / more[worth])
    found = np.concatenate(rates) if rates else np.empty(0)
    if not found.size:
        return [np.inf, 0.0]
    steps = np.unique(np.quantile(found, np.linspace(0.0, 1.0, _PRICES)))
    return [np.inf, *(steps[::-1] * (1.0 + 1e-9)).tolist(), 0.0]


def fixed(scores: Matrix, tokens: Matrix) -> Path:
    """Every fixed arm that a mix needs: the upper hull of the arms, cheapest first."""
    hull = mix_hull(scores.mean(axis=0), tokens.mean(axis=0))
    return Path(scores[:, hull], tokens[:, hull])


def mix_hull(accuracy: Matrix, cost: Matrix) -> list[int]:
    """Arms between which random mixing is best: from the cheapest to the most accurate, none below a line."""
    order = sorted(range(len(cost)), key=lambda a: (cost[a], -accuracy[a]))
    hull: list[int] = []
    for arm in order:
        if hull and accuracy[arm] <= accuracy[hull[-1]]:
            continue
        while len(hull) >= 2:
            low, high = hull[-2], hull[-1]
            across = (accuracy[high] - accuracy[low]) * (cost[arm] - cost[low])
            if across > (accuracy[arm] - accuracy[low]) * (cost[high] - cost[low]):
                break
            hull.pop()
        hull.append(arm)
    return hull


@dataclass(frozen=True, slots=True)
class Curve:
    """One curve, ascending in tokens: linear between points, as mixing two prices at random is."""

    accuracy: Matrix
    tokens: Matrix

    @classmethod
    def of(cls, accuracy: Matrix, tokens: Matrix) -> Curve:
        """(prices,) each. A point that spends more and gets less is kept."""
        order = np.lexsort((accuracy, tokens))
        return cls(accuracy[order], tokens[order])

    def at(self, budget: float) -> float:
        """Accuracy when at most `budget` tokens a prompt are spent; below the first point, that point."""
        return float(np.interp(budget, self.tokens, self.accuracy))

    def area(self, low: float, high: float) -> float:
        """Mean accuracy over budgets from `low` to `high`, flat beyond the last point."""
        if high <= low:
            return self.at(high)
        inside = (self.tokens > low) & (self.tokens < high)
        x = np.concatenate([[low], self.tokens[inside], [high]])
        y = np.concatenate([[self.at(low)], self.accuracy[inside], [self.at(high)]])
        return float(np.sum((x[1:] - x[:-1]) * (y[1:] + y[:-1]) / 2.0) / (high - low))

    def tokens_for(self, accuracy: float) -> float | None:
        """The fewest tokens at which that accuracy is reached; None if it never is."""
        reached = np.flatnonzero(self.accuracy >= accuracy - 1e-12)
        if not reached.size:
            return None
        first = int(reached[0])
        if first == 0:
            return float(self.tokens[0])
        y0, y1 = self.accuracy[first - 1], self.accuracy[first]
        x0, x1 = self.tokens[first - 1], self.tokens[first]
        return float(x0 + (x1 - x0) * (accuracy - y0) / (y1 - y0)) if y1 > y0 else float(x1)
