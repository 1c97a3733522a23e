"""How strongly to hold the fit back, found by cross-validation that keeps groups together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from classifier.design import Design
from classifier.logistic import Rotated, fit_arms

Matrix = NDArray[np.float64]
Fold = tuple[NDArray[np.intp], NDArray[np.intp]]

# On the mean loss: finer than the differences that decide between candidates.
_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class Strength:
    """How strongly the fit is held back: C, the arms' pull towards each other, the weight of words."""

    c: float
    pull: float
    lexical: float


@dataclass(frozen=True, slots=True)
class Grid:
    """Candidates for each part of `Strength`; where nothing is known yet, the first pull and scale and
    the middle C are assumed."""

    cs: Sequence[float]
    pulls: Sequence[float]
    lexical_scales: Sequence[float]


def search(
    design: Design, x: sparse.csr_matrix, scores: Matrix, folds: Sequence[Fold], grid: Grid
) -> tuple[Strength, Matrix, dict[Strength, float]]:
    """The best strength by out-of-fold log loss, its out-of-fold logits (n, arms), every loss tried.

    One part after another and C once more: seventeen fits a fold where the full grid takes sixty-three, and
    the loss is flat around its minimum.
    """
    best = Strength(grid.cs[len(grid.cs) // 2], grid.pulls[0], grid.lexical_scales[0])
    logits: dict[Strength, Matrix] = {}
    losses: dict[Strength, float] = {}
    prepared = _prepare(design, x, folds, best.lexical)
    prepared_for = best.lexical
    rounds = (("c", grid.cs), ("pull", grid.pulls), ("lexical", grid.lexical_scales), ("c", grid.cs))
    for part, values in rounds:
        candidates = [replace(best, **{part: float(value)}) for value in values]
        for candidate in candidates:
            if candidate in losses:
                continue
            if candidate.lexical != prepared_for:
                prepared, prepared_for = _prepare(design, x, folds, candidate.lexical), candidate.lexical
            logits[candidate] = _out_of_fold(prepared, scores, folds, candidate)
            losses[candidate] = log_loss(logits[candidate], scores)
        best = min(candidates, key=losses.__getitem__)
    return best, logits[best], losses


def log_loss(logits: Matrix, scores: Matrix) -> float:
    """Mean cross-entropy of (n, arms) logits with scores in [0, 1]; NaN scores do not count."""
    known = ~np.isnan(scores)
    f, y = logits[known], scores[known]
    return float(np.mean(np.logaddexp(0.0, f) - y * f))


def _prepare(
    design: Design, x: sparse.csr_matrix, folds: Sequence[Fold], lexical_scale: float
) -> list[tuple[Rotated, Matrix]]:
    """For every fold the rotated design to fit on, and the rows left out."""
    z = design.transform(x, lexical_scale)
    return [(Rotated.of(z[fit_on]), z[out]) for fit_on, out in folds]


def _out_of_fold(
    prepared: Sequence[tuple[Rotated, Matrix]], scores: Matrix, folds: Sequence[Fold], strength: Strength
) -> Matrix:
    logits = np.empty(scores.shape)
    for (rotated, left_out), (fit_on, out) in zip(prepared, folds, strict=True):
        linear = fit_arms(rotated, scores[fit_on], strength.c, strength.pull, _TOLERANCE)
        logits[out] = linear.logits(left_out)
    return logits
