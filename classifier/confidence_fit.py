"""Learn one-sample confidence from an outcome table's samples and cross-fitted priors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classifier.calibration import sigmoid
from classifier.confidence import COLUMNS, Confidence, columns, measures
from classifier.design import moments
from classifier.evaluate import arm_metrics
from classifier.tables import OutcomeTable

Matrix = NDArray[np.float64]

MIN_ROWS = 60
_FOLDS = 5
# Half of it is what a weight of 1 costs in log-likelihood: it holds against a few dozen rows and yields to
# hundreds.
_PENALTY = 5.0
_INTERCEPT_PENALTY = 1.0
_PRIOR = np.array([0.0, 1.0, 0.0, 0.0, 0.0, 0.0])
_FIGURES = ("brier", "ece", "ece_floor", "auc")


@dataclass(frozen=True, slots=True)
class Fitted:
    """By one-sample arm: the model, and its held-out figures beside the prior's for the card.

    `metrics` of an arm: `items`; `fitted`, whether the sample added anything to the prior; and under
    `confidence` and `prior` Brier, ECE, the ECE of a perfect one, AUC.
    """

    models: Mapping[str, Confidence]
    metrics: Mapping[str, Mapping[str, Any]]


def fit_confidences(table: OutcomeTable, p: Matrix, groups: NDArray[np.intp], seed: int) -> Fitted:
    """Fit every arm that was recorded one sample a prompt.

    `p` (n, arms) must come from models that had not seen the prompt (NaN where there is none), or the prior
    would be trusted more than it deserves. `groups` (n,) keeps equal prompts in one fold.
    """
    models: dict[str, Confidence] = {}
    metrics: dict[str, Mapping[str, Any]] = {}
    for arm, name in enumerate(table.arms):
        facts, prior, scores = table.facts[:, arm], p[:, arm], table.scores[:, arm]
        if np.isnan(facts).all():
            continue
        known = ~np.isnan(facts).any(axis=1) & ~np.isnan(prior) & ~np.isnan(scores)
        models[name], held_out = _choose(prior[known], facts[known], scores[known], groups[known], seed)
        metrics[name] = {
            "items": int(known.sum()),
            "fitted": models[name] != Confidence(),
            "confidence": _figures(name, held_out, scores[known]),
            "prior": _figures(name, prior[known], scores[known]),
        }
    return Fitted(models, metrics)


def _choose(
    p: Matrix, facts: Matrix, scores: Matrix, groups: NDArray[np.intp], seed: int
) -> tuple[Confidence, Matrix]:
    """The model and its held-out values; the prior as it is, unless the sample adds to it.

    It must lower the held-out Brier score by more than one standard error of the (paired) difference.
    """
    from sklearn.model_selection import GroupKFold

    if len(scores) < MIN_ROWS or len(np.unique(groups)) < MIN_ROWS:
        return Confidence(), p
    held_out = np.empty_like(p)
    for kept, out in GroupKFold(_FOLDS, shuffle=True, random_state=seed).split(p, groups=groups):
        held_out[out] = _fit(p[kept], facts[kept], scores[kept]).apply(p[out], facts[out])
    gain = (p - scores) ** 2 - (held_out - scores) ** 2
    if gain.mean() <= gain.std() / np.sqrt(gain.size):
        return Confidence(), p
    return _fit(p, facts, scores), held_out


def _fit(p: Matrix, facts: Matrix, scores: Matrix) -> Confidence:
    """Logistic regression, cross-entropy on scores in [0, 1], drawn towards the prior as it is.

    Scikit-learn's draws all weights towards 0 and knows no bounds; here slope 1 on the prior is what few rows
    fall back to, and the slope is never negative.
    """
    from scipy.optimize import minimize

    centre, inverse = moments(measures(facts))
    x = columns(p, facts, centre, inverse)
    penalty = np.full(COLUMNS, _PENALTY)
    penalty[0] = _INTERCEPT_PENALTY

    def objective(weights: Matrix) -> tuple[float, Matrix]:
        logits, away = x @ weights, weights - _PRIOR
        loss = float(np.sum(np.logaddexp(0.0, logits) - scores * logits) + 0.5 * penalty @ (away * away))
        return loss, x.T @ (sigmoid(logits) - scores) + penalty * away

    bounds = [(None, None), (0.0, None), *([(None, None)] * (COLUMNS - 2))]
    found = minimize(objective, _PRIOR, jac=True, method="L-BFGS-B", bounds=bounds)
    return Confidence(
        weights=tuple(found.x.tolist()),
        centre=(float(centre[0]), float(centre[1])),
        inverse=(float(inverse[0]), float(inverse[1])),
        floor=1.0 / (len(scores) + 2.0),
    )


def _figures(arm: str, p: Matrix, scores: Matrix) -> Mapping[str, Any]:
    figures = arm_metrics([arm], p[:, None], scores[:, None], p[:, None])[arm]
    return {name: figures[name] for name in _FIGURES}
