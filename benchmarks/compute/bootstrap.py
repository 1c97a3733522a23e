"""95 % intervals by resampling prompts, with a fixed seed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from benchmarks.compute.table import Floats

RESAMPLES = 2000
SEED = 0


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and the 2.5th and 97.5th percentile of its resamples."""

    value: float
    low: float
    high: float

    def holds(self, number: float) -> bool:
        return self.low <= number <= self.high

    def text(self, digits: int = 1, scale: float = 1.0, sign: bool = False) -> str:
        """`value [low, high]`, each times `scale`."""
        form = f"{'+' if sign else ''}z.{digits}f"  # z: no negative zero
        numbers = [format(scale * x, form) for x in (self.value, self.low, self.high)]
        return f"{numbers[0]} [{numbers[1]}, {numbers[2]}]"


@lru_cache(maxsize=4)
def resamples(prompts: int) -> Floats:
    """How much each of `prompts` weighs in each resample: (RESAMPLES, prompts), rows add up to 1."""
    rng = np.random.default_rng(SEED)
    return rng.multinomial(prompts, np.full(prompts, 1.0 / prompts), size=RESAMPLES) / prompts


def means(values: Floats) -> Floats:
    """Means of `values` (prompts, ...) over each resample: (RESAMPLES, ...)."""
    flat = values.reshape(len(values), -1)
    return (resamples(len(values)) @ flat).reshape(RESAMPLES, *values.shape[1:])


def interval(value: float, resampled: Floats) -> Interval:
    """Of a statistic and its values on the resamples; those that are not finite are left out."""
    finite = resampled[np.isfinite(resampled)]
    if not finite.size:
        return Interval(value, np.nan, np.nan)
    low, high = np.percentile(finite, (2.5, 97.5))
    return Interval(float(value), float(low), float(high))


def mean(values: Floats) -> Interval:
    """Of one value a prompt."""
    return interval(float(values.mean()), means(values))


def ratio(above: Floats, below: Floats) -> Interval:
    """Of two means of one value a prompt each, resampled together."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return interval(float(above.mean() / below.mean()), means(above) / means(below))
