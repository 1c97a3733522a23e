"""95 % intervals by resampling prompts, with a fixed seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

RESAMPLES = 1000
_FEWER = 300
_MANY_PROMPTS = 5_000


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with the 2.5th and 97.5th percentile of its resamples; None where it is not defined."""

    value: float | None
    low: float | None
    high: float | None

    def plain(self) -> dict[str, float | None]:
        return {"value": self.value, "low": self.low, "high": self.high}


def weights(prompts: int, seed: int) -> Matrix:
    """How much each prompt weighs in each resample: (resamples, prompts), rows add up to 1."""
    count = RESAMPLES if prompts <= _MANY_PROMPTS else _FEWER
    rng = np.random.default_rng(seed)
    return rng.multinomial(prompts, np.full(prompts, 1.0 / prompts), size=count) / prompts


def interval(value: float | None, resampled: Matrix) -> Interval:
    """Resamples that are NaN (not defined, never reached) are left out if they are few: at most one in 20."""
    if value is None or not np.isfinite(value):
        return Interval(None, None, None)
    finite = resampled[np.isfinite(resampled)]
    if finite.size < 0.95 * resampled.size:
        return Interval(float(value), None, None)
    low, high = np.percentile(finite, (2.5, 97.5))
    return Interval(float(value), float(low), float(high))
