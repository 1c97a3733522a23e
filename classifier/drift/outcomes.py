"""Whether predictions hold where the outcome is known: calibration of an arm, and what it spends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrc, gammaincc, ndtr

from classifier.calibration import brier, ece

Vector = NDArray[np.float64]

_DRAWS = 1_000
BINS = 10
_Z = 1.959964
EXPECTED_ABOVE = 0.05


@dataclass(frozen=True, slots=True)
class Calibration:
    """An arm's predicted p against what came of it, on `rows` decisions with a known outcome.

    `observed` and `predicted` are means; `ratio` is observed over predicted, `low` to `high` its 95 %
    interval (calibration in the large). `ece` has 10 bins of equal mass; `floor` is what a perfect p would
    show on so few rows. `p_gap` and `p_ece` are p-values of a perfect p showing a gap, or an ECE, as large.
    """

    rows: int
    observed: float
    predicted: float
    ratio: float
    low: float
    high: float
    brier: float
    ece: float
    floor: float
    p_gap: float
    p_ece: float

    @property
    def gap(self) -> float:
        """Observed less predicted: below zero it promises too much."""
        return self.observed - self.predicted

    @property
    def excess(self) -> float:
        """ECE beyond its noise floor."""
        return max(0.0, self.ece - self.floor)


@dataclass(frozen=True, slots=True)
class TokenFit:
    """Completion tokens of an arm on `rows` decisions.

    `ratio` is spent over predicted, both summed; `above` the share of rows beyond the predicted 95 %
    quantile, `p_above` the p-value of so many if 5 % are right.
    """

    rows: int
    ratio: float
    above: float
    p_above: float


def calibration(p: Vector, rewards: Vector, trained_rows: float = np.inf, seed: int = 0) -> Calibration:
    """Of (n,) predictions and rewards in [0, 1]; n is at least 1.

    The gap is tested by (O - E) / sqrt(sum p (1 - p) (1 + n / m)): Spiegelhalter 1986, Statistics in Medicine
    5(5), for unweighted residuals; p itself is no surer than the m `trained_rows` it was learnt from. The ECE
    is tested against simulated rows of a perfect p, with a gamma tail through their mean and variance. The
    interval is Wilson's of the observed share, over the predicted one. Rewards between 0 and 1 vary less than
    the tests suppose, which errs on the quiet side.
    """
    n = p.size
    observed, predicted = float(rewards.mean()), float(p.mean())
    spread = max(float(np.sqrt((p * (1.0 - p)).sum() * (1.0 + n / max(trained_rows, 1.0)))), 1e-9)
    low, high = _wilson(observed, n)
    found = ece(p, rewards, BINS)
    floor, deviation = _ece_of_perfect(p, seed)
    return Calibration(
        rows=n,
        observed=observed,
        predicted=predicted,
        ratio=observed / predicted,
        low=low / predicted,
        high=high / predicted,
        brier=brier(p, rewards),
        ece=found,
        floor=floor,
        p_gap=float(2.0 * ndtr(-abs((rewards - p).sum()) / spread)),
        p_ece=_gamma_tail(found, floor, deviation),
    )


def token_fit(expected: Vector, high: Vector, spent: Vector) -> TokenFit:
    """Of (n,) predicted means, their 95 % quantiles and what was spent; n is at least 1."""
    n = spent.size
    above = int((spent > high).sum())
    # P(X >= above); bdtrc(k, n, p) is P(X > k)
    p_above = float(bdtrc(above - 1, n, EXPECTED_ABOVE)) if above else 1.0
    return TokenFit(n, float(spent.sum() / max(expected.sum(), 1e-9)), above / n, p_above)


def quick_floor(p: Vector, bins: int = BINS) -> float:
    """The noise floor of the ECE without drawing: each bin's sum of residuals taken as normal."""
    ranked = np.sort(p)
    first = np.searchsorted(ranked, ranked, side="left")
    variance = np.bincount(first * bins // max(p.size, 1), weights=ranked * (1.0 - ranked), minlength=bins)
    return float(np.sqrt(variance).sum() * np.sqrt(2.0 / np.pi) / max(p.size, 1))


def _ece_of_perfect(p: Vector, seed: int) -> tuple[float, float]:
    """Mean and deviation of the ECE of rows that a perfect p would have; the bins are those of `ece`."""
    ranked = np.sort(p)
    first = np.searchsorted(ranked, ranked, side="left")
    starts = np.flatnonzero(np.diff(np.append(-1, first * BINS // p.size)))
    drawn = np.random.default_rng(seed).random((_DRAWS, p.size)) < ranked
    gaps = np.add.reduceat(ranked - drawn, starts, axis=1)
    found = np.abs(gaps).sum(axis=1) / p.size
    return float(found.mean()), float(found.std())


def _gamma_tail(value: float, mean: float, deviation: float) -> float:
    """P(X >= value) of a gamma distribution with this mean and deviation."""
    if mean <= 0.0 or deviation <= 0.0:
        return 1.0 if value <= mean else 0.0
    scale = deviation**2 / mean
    return float(gammaincc(mean / scale, max(value, 0.0) / scale))


def _wilson(share: float, n: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927)."""
    denominator = 1.0 + _Z**2 / n
    centre = (share + _Z**2 / (2 * n)) / denominator
    half = _Z * np.sqrt(share * (1.0 - share) / n + _Z**2 / (4 * n**2)) / denominator
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))
