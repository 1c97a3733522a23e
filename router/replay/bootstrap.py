"""Bootstrap intervals of ratios and of their differences, resampling decisions with a fixed seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from router.replay.estimators import Ratio

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

RESAMPLES = 1000
LEVEL = 0.90
MOST_UNITS = 4000  # of more decisions, bundles drawn at random are resampled: sums are all that counts
_ENOUGH = 0.9  # of the resamples must have an error of their own


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with the ends of its interval, NaN where it is not defined."""

    value: float
    low: float
    high: float

    def covers(self, truth: float) -> bool:
        return self.low <= truth <= self.high

    def within(self, least: float, most: float) -> Interval:
        """No end beyond what the value can be at all."""
        return Interval(self.value, *(float(np.clip(end, least, most)) for end in (self.low, self.high)))


UNKNOWN = Interval(float("nan"), float("nan"), float("nan"))


def interval(
    ratio: Ratio,
    less: Ratio | None = None,
    *,
    seed: int = 0,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    least_error: float = 0.0,
) -> Interval:
    """The interval of `ratio`, or of `ratio` - `less` over the same decisions: both see the same resamples.

    Bootstrap-t: quantiles of the resampled errors in units of their own standard error (Efron and Tibshirani,
    An Introduction to the Bootstrap, 1993, chapter 12); few large weights make values skewed, and this
    answers it. Plain quantiles where too many resamples have no error of their own. UNKNOWN where a sum below
    the line is 0. `least_error` is a standard error known from elsewhere, which it does not go below: where
    few rows have large weights, chance may have drawn none of those that would show the noise.
    """
    parts = [ratio] if less is None else [ratio, less]
    if not all(np.isfinite(part.value) for part in parts):
        return UNKNOWN
    units = _bundled(parts, seed)
    value = float(_values(units.sum(axis=0))[0])
    spread = float(_errors(units, np.ones((1, len(units))))[0])
    tail = (1.0 - level) / 2.0
    if spread <= 1e-12 * max(1.0, abs(value)):
        away = NormalDist().inv_cdf(1.0 - tail) * least_error
        return Interval(value, value - away, value + away)
    counts = _counts(len(units), seed, resamples)
    values, errors = _values(counts @ units), _errors(units, counts)
    known = np.isfinite(values) & (errors > 0)
    if known.sum() < _ENOUGH * resamples:
        low, high = np.nanquantile(values, (tail, 1.0 - tail))
        return Interval(value, float(low), float(high))
    low, high = np.quantile((values[known] - value) / errors[known], (tail, 1.0 - tail))
    spread = max(spread, least_error)
    return Interval(value, value - float(high) * spread, value - float(low) * spread)


def _bundled(parts: Sequence[Ratio], seed: int) -> Matrix:
    """(units, 2 x parts): tops and bottoms, of each decision or of bundles of them."""
    columns = np.column_stack([column for part in parts for column in (part.top, part.bottom)])
    if len(columns) <= MOST_UNITS:
        return columns
    order = np.random.default_rng([seed, 1]).permutation(len(columns))
    return np.array([columns[bundle].sum(axis=0) for bundle in np.array_split(order, MOST_UNITS)])


def _values(sums: Matrix) -> Vector:
    """Ratios, or differences of two, of sums (..., 2 x parts)."""
    sums = np.atleast_2d(sums)
    with np.errstate(divide="ignore", invalid="ignore"):
        first = sums[:, 0] / sums[:, 1]
        return np.asarray(first - sums[:, 2] / sums[:, 3] if sums.shape[1] > 2 else first)


def _errors(units: Matrix, counts: Matrix) -> Vector:
    """Standard errors by linearisation, of each row of counts (resamples, units).

    var = sum_i c_i (sum over parts of +-(top_i - ratio bottom_i) / bottom)^2, multiplied out.
    """
    sums = counts @ units
    width = units.shape[1]
    pairs = [(a, b) for a in range(width) for b in range(a, width)]
    crossed = counts @ np.column_stack([units[:, a] * units[:, b] for a, b in pairs])
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes = np.empty_like(sums)
        for sign, at in zip((1.0, -1.0), range(0, width, 2), strict=False):
            slopes[:, at] = sign / sums[:, at + 1]
            slopes[:, at + 1] = -sign * sums[:, at] / sums[:, at + 1] ** 2
        squares = np.zeros(len(counts))
        for at, (a, b) in enumerate(pairs):
            squares += (1.0 if a == b else 2.0) * slopes[:, a] * slopes[:, b] * crossed[:, at]
        return np.asarray(np.sqrt(np.maximum(squares, 0.0)))


@lru_cache(maxsize=2)
def _counts(units: int, seed: int, resamples: int) -> Matrix:
    """How often each unit is in each resample, (resamples, units); one study asks for the same many times."""
    rng = np.random.default_rng([seed, 2])
    return rng.multinomial(units, np.full(units, 1.0 / units), size=resamples).astype(np.float64)
