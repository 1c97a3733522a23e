"""A second opinion from the words alone: L2 logistic regressions over all hashed words and pairs.

`logistic` looks at few directions and draws arms towards each other, which serves each arm's probability.
What sets arms apart on a topic is often a handful of words, and that survives here. Both are linear in
the same features, so that serving pays for one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import minimize
from scipy.special import expit

from classifier.features import COUNT, WIDTH
from classifier.features.lexical import PAIRS_END
from classifier.logistic import Linear

Matrix = NDArray[np.float64]

_STEPS = 30
_TOLERANCE = 1e-4


def inverse_frequencies(x: sparse.csr_matrix) -> Matrix:
    """(PAIRS_END,) weights of words and pairs: log((1 + n) / (1 + prompts that have it)) + 1."""
    words = _words(x)
    having = np.bincount(words.indices, minlength=PAIRS_END)
    return np.asarray(np.log((1.0 + words.shape[0]) / (1.0 + having)) + 1.0)


def fit_words(x: sparse.csr_matrix, scores: Matrix, weight: Matrix, c: float) -> Linear:
    """Fit (n, COUNT + WIDTH) raw features against (n, arms) scores, NaN where missing.

    `weight` (PAIRS_END,) scales the words; c is scikit-learn's C. The result's weights are (WIDTH, arms), on
    lexical values as they are; those of character triples are 0. An arm of one class stays within reach by
    one pseudo-row of each.
    """
    words = _words(x)
    # what no prompt has keeps weight 0
    used = np.unique(words.indices)
    z = sparse.csr_matrix(words[:, used] @ sparse.diags(weight[used]))
    turned = sparse.csr_matrix(z.T)
    n, arms = scores.shape
    known = ~np.isnan(scores)
    y = np.where(known, scores, 0.0)
    base = (y.sum(axis=0) + 1.0) / (known.sum(axis=0) + 2.0)
    scale = 1.0 / (c * max(n, 1))

    def objective(theta: Matrix) -> tuple[float, Matrix]:
        held = theta.reshape(used.size + 1, arms)
        w, b = held[:-1], held[-1]
        f = z @ w + b
        loss = float(np.sum(known * (np.logaddexp(0.0, f) - y * f)))
        loss += float(np.sum(2.0 * np.logaddexp(0.0, b) - b))
        error = known * (expit(f) - y)
        back = np.vstack([c * (turned @ error) + w, c * (error.sum(axis=0) + 2.0 * expit(b) - 1.0)[None]])
        return (c * loss + 0.5 * float(np.sum(w * w))) * scale, back.ravel() * scale

    start = np.zeros((used.size + 1, arms))
    start[-1] = np.log(base / (1.0 - base))
    found = minimize(
        objective,
        start.ravel(),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": _STEPS, "ftol": _TOLERANCE, "gtol": 1e-7},
    )
    held = found.x.reshape(used.size + 1, arms)
    weights = np.zeros((WIDTH, arms))
    weights[used] = held[:-1] * weight[used, None]
    return Linear(weights, held[-1].copy())


def words_logits(x: sparse.csr_matrix, linear: Linear) -> Matrix:
    """(n, arms) logits of (n, COUNT + WIDTH) raw features."""
    return np.asarray(x[:, COUNT:] @ linear.weights) + linear.intercept


def _words(x: sparse.csr_matrix) -> sparse.csr_matrix:
    return sparse.csr_matrix(x[:, COUNT : COUNT + PAIRS_END])
