"""From raw features to the columns a linear model is fitted on, and back to weights on raw features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.utils.extmath import randomized_svd

from classifier.features import COUNT, WIDTH
from classifier.features.expand import expand
from classifier.forward import standardise

Matrix = NDArray[np.float64]


def moments(columns: Matrix) -> tuple[Matrix, Matrix]:
    """Mean and inverse deviation of each column of (n, d); the inverse is 0 where nothing varies."""
    deviation = columns.std(axis=0)
    varies = deviation > 1e-9
    return columns.mean(axis=0), np.where(varies, 1.0 / np.where(varies, deviation, 1.0), 0.0)


@dataclass(frozen=True, slots=True)
class Design:
    """Standardised expanded structure, and the hashed words on the directions in which prompts differ most.

    `mean`, `inverse` (EXPANDED,): a column that never varies has inverse deviation 0, so it stays 0.
    `basis` (WIDTH, rank), `centre` (rank,): lexical values -> coordinates; the first has deviation 1 and
    the others less, by their singular values, so that the penalty weighs rare wordings down.
    """

    mean: Matrix
    inverse: Matrix
    basis: Matrix
    centre: Matrix

    @classmethod
    def fit(cls, x: sparse.csr_matrix, rank: int, random_state: int) -> Design:
        """Learn from (n, COUNT + WIDTH) raw features; no scores are looked at."""
        structure = expand(x[:, :COUNT].toarray())
        mean, inverse = moments(structure)
        words = x[:, COUNT:]
        rank = max(1, min(rank, words.shape[0] - 1, WIDTH))
        _, _, axes = randomized_svd(words, rank, random_state=random_state)
        spread = float((words @ axes.T).std(axis=0).max())
        basis = axes.T / spread if spread > 1e-9 else np.zeros((WIDTH, rank))
        return cls(mean, inverse, basis, np.asarray(words.mean(axis=0)).ravel() @ basis)

    def transform(self, x: sparse.csr_matrix, lexical_scale: float) -> Matrix:
        """(n, COUNT + WIDTH) raw features -> (n, EXPANDED + rank)."""
        structure = standardise(expand(x[:, :COUNT].toarray()), self.mean, self.inverse)
        return np.hstack([structure, lexical_scale * (x[:, COUNT:] @ self.basis - self.centre)])

    def unfold(
        self, weights: Matrix, intercept: Matrix, lexical_scale: float
    ) -> tuple[Matrix, Matrix, Matrix]:
        """Weights on `transform`'s columns -> (standardised structural, raw lexical, intercept)."""
        split = self.mean.size
        lexical = lexical_scale * weights[split:]
        return weights[:split], self.basis @ lexical, intercept - self.centre @ lexical
