"""From scores to probabilities that mean what they say, and the figures that show whether they do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Method = Literal["none", "temperature", "platt", "isotonic"]

METHODS: tuple[Method, ...] = ("none", "temperature", "platt", "isotonic")
MAX_KNOTS = 64
_MIN_ROWS: dict[Method, int] = {"none": 0, "temperature": 40, "platt": 60, "isotonic": 300}


@dataclass(frozen=True, slots=True)
class Calibrator:
    """Logit -> probability: sigmoid(slope * logit + offset), or, with knots, linear between them.

    `knots_x` (logits, ascending) and `knots_y` (probabilities) have the same length, 0 without a curve.
    """

    method: Method
    slope: float
    offset: float
    knots_x: Vector
    knots_y: Vector

    def apply(self, logits: Vector) -> Vector:
        if self.knots_x.size:
            return np.interp(logits, self.knots_x, self.knots_y)
        return sigmoid(self.slope * logits + self.offset)


def sigmoid(logits: Vector) -> Vector:
    """1 / (1 + exp(-x)) without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)))


def logit(p: Vector) -> Vector:
    """log(p / (1 - p)) for p strictly between 0 and 1."""
    return np.asarray(np.log(p) - np.log1p(-p))


def fit_calibrator(logits: Vector, scores: Vector, method: Method) -> Calibrator:
    """Fit one method on out-of-fold logits (n,) and scores (n,) in [0, 1].

    Platt scaling (Platt 1999) with a prior of one pseudo-row on slope 1, offset 0, its slope never
    negative; temperature is its slope alone (Guo et al. 2017, arXiv 1706.04599); isotonic is
    scikit-learn's, thinned to MAX_KNOTS.
    """
    none = np.empty(0)
    if method == "none":
        return Calibrator("none", 1.0, 0.0, none, none)
    if method == "isotonic":
        return _fit_isotonic(logits, scores)
    from scipy.optimize import minimize  # serving never fits, so it never pays for this import

    free = np.array([1.0, 0.0 if method == "temperature" else 1.0])

    def objective(theta: Vector) -> tuple[float, Vector]:
        f = theta[0] * logits + theta[1]
        loss = float(np.sum(np.logaddexp(0.0, f) - scores * f))
        error = sigmoid(f) - scores
        prior = np.array([theta[0] - 1.0, theta[1]])
        return loss + 0.5 * float(prior @ prior), free * (np.array([error @ logits, error.sum()]) + prior)

    found = minimize(
        objective, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(0.0, 10.0), (-10.0, 10.0)]
    )
    return Calibrator(method, float(found.x[0]), float(found.x[1]), none, none)


def _fit_isotonic(logits: Vector, scores: Vector) -> Calibrator:
    from sklearn.isotonic import IsotonicRegression

    curve = IsotonicRegression(out_of_bounds="clip").fit(logits, scores)
    x, y = np.asarray(curve.X_thresholds_, float), np.asarray(curve.y_thresholds_, float)
    if x.size > MAX_KNOTS:
        keep = np.unique(np.linspace(0, x.size - 1, MAX_KNOTS).round().astype(np.intp))
        x, y = x[keep], y[keep]
    return Calibrator("isotonic", 1.0, 0.0, x, y)


def choose_calibrator(
    logits: Vector, scores: Vector, folds: NDArray[np.intp], method: Method | Literal["auto"] = "auto"
) -> Calibrator:
    """The method with the best cross-validated Brier score, fitted on all rows.

    A richer method must win by more than one standard error of the (paired) difference, and stands aside
    where there are too few rows for it. `folds` (n,) numbers each row's fold; rows of one fold are
    predicted by a curve fitted on the others.
    """
    if method != "auto":
        return fit_calibrator(logits, scores, method)
    best: Method = "none"
    best_errors = (sigmoid(logits) - scores) ** 2
    for candidate in METHODS[1:]:
        if scores.size < _MIN_ROWS[candidate]:
            continue
        predicted = np.empty_like(scores)
        for fold in np.unique(folds):
            out = folds == fold
            predicted[out] = fit_calibrator(logits[~out], scores[~out], candidate).apply(logits[out])
        errors = (predicted - scores) ** 2
        gain = best_errors - errors
        if gain.mean() > gain.std() / np.sqrt(gain.size):
            best, best_errors = candidate, errors
    return fit_calibrator(logits, scores, best)


def brier(p: Vector, scores: Vector) -> float:
    """Mean squared error of probabilities; NaN without rows."""
    return float(np.mean((p - scores) ** 2)) if p.size else float("nan")


def ece(p: Vector, scores: Vector, bins: int = 15) -> float:
    """Expected calibration error over `bins` bins of equal mass (Naeini et al. 2015); NaN without rows.

    Rows with the same p always share a bin, so that the figure does not depend on their order.
    """
    if not p.size:
        return float("nan")
    order = np.argsort(p, kind="stable")
    ranked = p[order]
    bin_of = np.arange(p.size) * bins // p.size
    first = np.searchsorted(ranked, ranked, side="left")
    bin_of = bin_of[first]
    gaps = np.bincount(bin_of, weights=ranked - scores[order], minlength=bins)
    return float(np.sum(np.abs(gaps)) / p.size)


def ece_floor(p: Vector, bins: int = 15, draws: int = 200, seed: int = 0) -> float:
    """The ECE that a perfectly calibrated p would show on this few rows, from `draws` simulated tables."""
    return ece_noise(p, bins, draws, seed)[0]


def ece_noise(p: Vector, bins: int = 15, draws: int = 200, seed: int = 0) -> tuple[float, float]:
    """As `ece_floor`, and the ECE that one such table in 20 exceeds; NaN without rows."""
    if not p.size:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    drawn = [ece(p, (rng.random(p.size) < p).astype(np.float64), bins) for _ in range(draws)]
    return float(np.mean(drawn)), float(np.quantile(drawn, 0.95))
