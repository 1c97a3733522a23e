"""Off-policy estimators on plain arrays: IPS, self-normalised IPS and doubly robust, all as ratios of sums.

Notation, over n logged decisions: x is what was known, a the start that was drawn with propensity b(a | x),
r what came of it, pi(a | x) the other policy's propensity of the same start, w = pi(a | x) / b(a | x), and
q(x, a) a model of r. Where b(a | x) > 0 for all that pi would do, E[w] = 1 and E[w r] is the other's value.

- IPS:   sum(w r) / n. Unbiased, and the noisiest (Horvitz and Thompson, JASA 1952).
- SNIPS: sum(w r) / sum(w). Swaminathan and Joachims, NeurIPS 2015: what is added to every r is added to it, a
  mean of weights that is off by chance costs nothing, and it stays between the least and the greatest r.
- DR:    mean(sum_a pi(a | x) q(x, a) + w (r - q(x, a))). Dudik, Langford and Li, ICML 2011 (arXiv 1103.4601):
  right where either the propensities or the model are; the better the model, the less noise.

Clipped weights, min(w, most), trade bias for noise; nothing here clips unless it is told to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Ratio:
    """An estimate sum(top) / sum(bottom), its rows kept so that it can be resampled. Both are (n,)."""

    top: Vector
    bottom: Vector

    @property
    def value(self) -> float:
        """NaN where nothing is below the line."""
        bottom = float(self.bottom.sum())
        return float(self.top.sum()) / bottom if bottom else float("nan")


def ips(weights: Vector, rewards: Vector) -> Ratio:
    """sum(w r) / n. A weight of 0 takes its row out, so a reward may be NaN there."""
    return Ratio(_weighed(weights, rewards), np.ones(len(weights)))


def snips(weights: Vector, rewards: Vector) -> Ratio:
    """sum(w r) / sum(w); NaN where all weights are 0."""
    return Ratio(_weighed(weights, rewards), weights)


def doubly_robust(weights: Vector, rewards: Vector, taken: Vector, other: Vector) -> Ratio:
    """mean(other + w (r - taken)).

    `taken` (n,) is q(x, a) of what was done, `other` (n,) the mean of q over what the other policy would do.
    """
    return Ratio(other + _weighed(weights, rewards - taken), np.ones(len(weights)))


def on_policy(rewards: Vector) -> Ratio:
    """The plain mean of what was logged."""
    return Ratio(np.asarray(rewards, dtype=np.float64), np.ones(len(rewards)))


def clipped(weights: Vector, most: float | None) -> Vector:
    """min(w, most); the weights as they are where `most` is None."""
    return weights if most is None else np.minimum(weights, most)


def effective_sample_size(weights: Vector) -> float:
    """(sum w)^2 / sum w^2 (Kish): as many decisions of the other policy's own would tell as much."""
    squares = float(np.square(weights).sum())
    return float(weights.sum()) ** 2 / squares if squares else 0.0


def _weighed(weights: Vector, rewards: Vector) -> Vector:
    return np.where(weights > 0.0, weights * np.where(weights > 0.0, rewards, 0.0), 0.0)
