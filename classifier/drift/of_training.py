"""The reference of a training run, and that of a calibration on other traffic."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from classifier.artifact import Artifact
from classifier.drift.reference import Reference, signal_rows
from classifier.features import COUNT, extract
from classifier.predictor import Predictor

Matrix = NDArray[np.float64]


class Fitted(Protocol):
    """What a reference asks a fitted model (`ArmClassifier`)."""

    def predict_proba(self, X: sparse.csr_matrix) -> Matrix: ...
    def predict_tokens(self, X: sparse.csr_matrix) -> tuple[Matrix, Matrix]: ...
    def novelty(self, X: sparse.csr_matrix) -> Matrix: ...


def reference_of_training(
    model: Fitted,
    held_out: Iterable[tuple[NDArray[np.intp], Fitted]],
    x: sparse.csr_matrix,
    tokens: Matrix,
) -> Reference:
    """From the final model and held-out parts (rows, a model that has not seen them).

    x are raw features, `tokens` (n, arms) what was spent. How far prompts are out of distribution, and how
    far predicted tokens are off, is taken from held-out prompts: seen ones look more familiar than a new one.
    p and predicted tokens are the final model's own: other fits are bolder or more timid, and a mixture of
    them differs from what is served (measured: 7 of 8 undrifted windows then did).
    """
    expected, _ = model.predict_tokens(x)
    ood, spent_over = np.full(x.shape[0], np.nan), np.full(tokens.shape, np.nan)
    for out, other in held_out:
        ood[out] = other.novelty(x[out])
        spent_over[out] = tokens[out] / np.maximum(other.predict_tokens(x[out])[0], 1.0)
    # the ratio is the held-out one, whatever the final model expects
    spent = spent_over * np.maximum(expected, 1.0)
    rows = signal_rows(x[:, :COUNT].toarray(), ood, model.predict_proba(x), expected, spent)
    return Reference.of(rows, tokens.shape[1])


def reference_of_traffic(
    artifact: Artifact, conversations: Sequence[Sequence[Mapping[str, str]]], tokens: Matrix
) -> Reference:
    """What `artifact` makes of conversations that are new to it; (n, arms) tokens spent, NaN if unknown."""
    predictor = Predictor(artifact)
    told = [predictor.predict(messages) for messages in conversations]
    return Reference.of(
        signal_rows(
            np.array([extract(messages).structural for messages in conversations]),
            np.array([each.ood for each in told]),
            np.array([[each.p[arm] for arm in artifact.arms] for each in told]),
            np.array([[each.tokens[arm] for arm in artifact.arms] for each in told]),
            tokens,
        ),
        len(artifact.arms),
    )
