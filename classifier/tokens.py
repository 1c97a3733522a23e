"""How many completion tokens an arm will spend: a ridge regression on their logarithm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import Ridge

from classifier.forward import TokenHead
from classifier.logistic import Linear
from classifier.search import Fold

Matrix = NDArray[np.float64]

_ALPHAS = (10.0, 100.0, 1000.0)
_QUANTILE = 0.95
_MIN_ROWS = 30


def fit_tokens(z: Matrix, tokens: Matrix, folds: Sequence[Fold]) -> tuple[Linear, TokenHead]:
    """Fit (n, d) design against (n, arms) completion tokens, NaN where missing.

    The ridge penalty, the correction from mean log to mean, and the 95 % quantile over the mean all come
    from out-of-fold predictions. An arm with too few rows, or whose count never varies, gets its mean.
    """
    arms = tokens.shape[1]
    weights, intercept = np.zeros((z.shape[1], arms)), np.zeros(arms)
    low, high, smear, multiplier = np.zeros(arms), np.zeros(arms), np.ones(arms), np.ones(arms)
    for arm in range(arms):
        known = np.flatnonzero(~np.isnan(tokens[:, arm]))
        counts = tokens[known, arm]
        if not known.size:
            continue
        logs = np.log(np.maximum(counts, 1.0))
        low[arm], high[arm] = logs.min(), logs.max()
        predicted = np.full(known.size, logs.mean())
        intercept[arm] = logs.mean()
        if known.size >= _MIN_ROWS and logs.std() > 1e-6:
            alpha, predicted = _choose_alpha(z, tokens[:, arm], known, logs, folds)
            model = Ridge(alpha=alpha).fit(z[known], logs)
            weights[:, arm], intercept[arm] = model.coef_, float(model.intercept_)
        means = np.exp(np.clip(predicted, low[arm], high[arm]))
        smear[arm] = max(float(counts.mean() / means.mean()), 1e-6)
        multiplier[arm] = max(1.0, float(np.quantile(counts / (means * smear[arm]), _QUANTILE)))
    return Linear(weights, intercept), TokenHead(low, high, smear, multiplier)


def _choose_alpha(
    z: Matrix, column: Matrix, known: NDArray[np.intp], logs: Matrix, folds: Sequence[Fold]
) -> tuple[float, Matrix]:
    """The penalty with the least out-of-fold squared error, and its out-of-fold logs for the known rows."""
    target = np.full(column.size, np.nan)
    target[known] = logs
    best, best_error, best_logs = _ALPHAS[-1], np.inf, np.full(known.size, logs.mean())
    for alpha in _ALPHAS:
        predicted = np.full(column.size, logs.mean())
        for fit_on, out in folds:
            rows = fit_on[~np.isnan(target[fit_on])]
            if rows.size >= 2:
                predicted[out] = Ridge(alpha=alpha).fit(z[rows], target[rows]).predict(z[out])
        error = float(np.mean((predicted[known] - logs) ** 2))
        if error < best_error:
            best, best_error, best_logs = alpha, error, predicted[known]
    return best, best_logs
