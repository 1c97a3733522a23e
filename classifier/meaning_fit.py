"""Fit the opinion of a sentence encoder on what the other two leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from classifier.forward import Meaning
from classifier.logistic import Rotated, fit_arms
from classifier.search import Fold, log_loss
from classifier.stacking import Stack, fit_stack

Matrix = NDArray[np.float64]

# On vectors scaled to a mean deviation of 1: few prompts must not fit hundreds of directions.
CS = (0.0001, 0.0003, 0.001, 0.003, 0.01)
_PULL = 1.0
# What few prompts fall back to: the opinion that was there before.
_BEFORE = (1.0, 0.0, 1.0, 0.0)


@dataclass(frozen=True, slots=True)
class FittedMeaning:
    """`stack` of the opinion before and this one; `own`: this one's logits, before they are stacked."""

    stack: Stack
    own: Meaning
    bias: Matrix
    c: float

    def blend(self, before: Matrix, vectors: Matrix | None) -> Matrix:
        """(n, arms) logits of the opinions before and (n, d) vectors, None if there are none: of all."""
        if vectors is None:
            vectors = np.zeros((len(before), self.own.mean.size))
        return self.stack.blend(before, self.own.logits(vectors) + self.bias) + self.stack.offset

    def export(
        self, structural: Matrix, lexical: Matrix, intercept: Matrix
    ) -> tuple[tuple[Matrix, Matrix, Matrix], Meaning | None]:
        """The linear map of the opinions before as it counts now, and this opinion as it counts.

        All stay linear, so that serving pays for one map and one product. The encoder's name is open; one
        that came to weigh nothing is not worth asking: None.
        """
        none = np.zeros_like(self.own.weights)
        before = (
            self.stack.blend(structural, np.zeros_like(structural)),
            self.stack.blend(lexical, np.zeros_like(lexical)),
            self.stack.blend(intercept[None], self.bias[None])[0] + self.stack.offset,
        )
        if not (self.stack.common[1] or self.stack.apart[1]):
            return before, None
        return before, Meaning("", "", self.own.mean, self.stack.blend(none, self.own.weights))


def fit_meaning(
    before: Matrix, vectors: Matrix, scores: Matrix, folds: Sequence[Fold]
) -> tuple[FittedMeaning, Matrix]:
    """From out-of-fold logits (n, arms) and vectors (n, d): the fit, and out-of-fold logits of the whole.

    A row of zeros is a prompt that the encoder could not see.
    """
    seen = np.asarray(vectors.any(axis=1))
    mean = vectors[seen].mean(axis=0) if seen.any() else np.zeros(vectors.shape[1])
    z = np.where(seen[:, None], vectors - mean, 0.0)
    scale = max(float(z[seen].std(axis=0).mean()), 1e-9) if seen.any() else 1.0
    z /= scale
    rotated = [(Rotated.of(z[kept]), kept, out) for kept, out in folds]
    best, best_loss, best_logits = CS[0], np.inf, np.zeros(scores.shape)
    for c in CS:
        logits = np.empty(scores.shape)
        for turned, kept, out in rotated:
            logits[out] = fit_arms(turned, scores[kept], c, _PULL, 1e-6).logits(z[out])
        if (loss := log_loss(logits, scores)) < best_loss:
            best, best_loss, best_logits = c, loss, logits
    linear = fit_arms(Rotated.of(z), scores, best, _PULL, 1e-6)
    stack = fit_stack(before, best_logits, scores, start=_BEFORE)
    fitted = FittedMeaning(stack, Meaning("", "", mean, linear.weights / scale), linear.intercept, best)
    return fitted, stack.blend(before, best_logits) + stack.offset
