"""Logistic regressions of all arms at once, pulled towards what they have in common.

Whether a prompt is hard is much the same question for every arm, so arm a's weights are
w_a = w_0 + v_a with penalties |w_0|^2 / 2 + pull * sum |v_a|^2 / 2 (Evgeniou & Pontil, "Regularized
multi-task learning", KDD 2004). An arm with few rows then leans on the others; with a single arm it is
plain L2 logistic regression, scikit-learn's C being c * (1 + 1 / pull). Scores between 0 and 1 count as
that share of a success: cross-entropy, which equals weighting both classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Linear:
    """`weights` (d, arms) and `intercept` (arms,) of logits."""

    weights: Matrix
    intercept: Matrix

    def logits(self, z: Matrix) -> Matrix:
        return z @ self.weights + self.intercept


@dataclass(frozen=True, slots=True)
class Rotated:
    """A design in the axes of its own z'z, made once for many fits: an L2 penalty does not notice a rotation.

    `z` (n, r), `turn` (d, r) from those axes back, `values` (r,): eigenvalues. Directions in which the rows
    do not differ are left out; the best weight there is 0.
    """

    z: Matrix
    turn: Matrix
    values: Matrix

    @classmethod
    def of(cls, z: Matrix) -> Rotated:
        values, turn = np.linalg.eigh(z.T @ z)
        kept = values > 1e-10 * max(float(values[-1]), 1e-300)
        return cls(z @ turn[:, kept], turn[:, kept], values[kept])


def fit_arms(design: Rotated, scores: Matrix, c: float, pull: float, tolerance: float = 1e-9) -> Linear:
    """Fit (n, d) against (n, arms) scores in [0, 1], NaN where missing; `tolerance` is on the mean loss.

    An arm whose rows are all 0 or all 1 (or absent) gets weights from the others and an intercept held
    within reach by one pseudo-row of each class.
    """
    n, d = design.z.shape
    arms = scores.shape[1]
    known = ~np.isnan(scores)
    y = np.where(known, scores, 0.0)
    counts, sums = known.sum(axis=0), y.sum(axis=0)
    stuck = (sums <= 0.0) | (sums >= counts)
    scaled = _Scaled.of(design, c, pull, arms)

    def objective(theta: Matrix) -> tuple[float, Matrix]:
        common, own, intercept = scaled.unpack(theta)
        logits = design.z @ (common[:, None] + own) + intercept
        loss = float(np.sum(known * (np.logaddexp(0.0, logits) - y * logits)))
        loss += float(np.sum(stuck * (2.0 * np.logaddexp(0.0, intercept) - intercept)))
        error = known * (expit(logits) - y)
        back = design.z.T @ error
        gradient = scaled.pack_gradient(
            c * back.sum(axis=1) + common,
            c * back + pull * own,
            c * (error.sum(axis=0) + stuck * (2.0 * expit(intercept) - 1.0)),
        )
        penalty = 0.5 * float(common @ common) + 0.5 * pull * float(np.sum(own * own))
        # over c * n: the stopping tolerance then means the same for every c and every table
        scale = 1.0 / (c * max(n, 1))
        return (c * loss + penalty) * scale, gradient * scale

    theta = np.zeros(d + d * arms + arms)
    base = (sums + 1.0) / (counts + 2.0)
    theta[d + d * arms :] = np.log(base / (1.0 - base)) / scaled.intercept
    found = minimize(
        objective,
        theta,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 200, "ftol": tolerance, "gtol": 1e-7},
    )
    common, own, intercept = scaled.unpack(found.x)
    return Linear(design.turn @ (common[:, None] + own), intercept)


@dataclass(frozen=True, slots=True)
class _Scaled:
    """Unknowns in units of the curvature, about 0.2 c z'z plus the penalty, so that L-BFGS needs tens of
    steps and not hundreds: `common` (r,), `own` (r,), `intercept`."""

    common: Matrix
    own: Matrix
    intercept: float

    @classmethod
    def of(cls, design: Rotated, c: float, pull: float, arms: int) -> _Scaled:
        curvature = 0.2 * c * design.values
        return cls(
            1.0 / np.sqrt(arms * curvature + 1.0),
            1.0 / np.sqrt(curvature + pull),
            1.0 / float(np.sqrt(0.2 * c * max(len(design.z), 1))),
        )

    def unpack(self, theta: Matrix) -> tuple[Matrix, Matrix, Matrix]:
        d = self.common.size
        arms = (theta.size - d) // (d + 1)
        own = theta[d : d + d * arms].reshape(d, arms)
        return theta[:d] * self.common, own * self.own[:, None], theta[d + d * arms :] * self.intercept

    def pack_gradient(self, common: Matrix, own: Matrix, intercept: Matrix) -> Matrix:
        parts = [common * self.common, (own * self.own[:, None]).ravel(), intercept * self.intercept]
        return np.concatenate(parts)
