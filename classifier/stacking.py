"""Two linear opinions become one: how far each is believed about a prompt, and about what sets arms apart.

A prompt's difficulty (the mean of the arms' logits) and each arm's distance from it are believed separately:
the first decides calibration, the second routing, and where words say nothing about arms it goes to 0. Four
weights for all arms, so that a few hundred prompts are enough to learn them from out-of-fold logits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

Matrix = NDArray[np.float64]

# What a few hundred prompts fall back to: difficulty mostly as the first has it, arms as the second tells
# them apart. Half of the penalty is what a weight's distance of 1 from there costs in log-likelihood.
_START = (0.7, 0.3, 0.3, 0.7)
_PENALTY = 10.0
_OFFSET_PENALTY = 0.1
_MOST = 3.0


@dataclass(frozen=True, slots=True)
class Stack:
    """`common` and `apart` (2,): the opinions' weights on difficulty and on distances; `offset` (arms,)."""

    common: Matrix
    apart: Matrix
    offset: Matrix

    def blend(self, first: Matrix, second: Matrix) -> Matrix:
        """(n, arms) of both, in logits; or (d, arms) of linear weights, less the offset: it is linear."""
        told = np.zeros_like(first)
        for opinion, common, apart in zip((first, second), self.common, self.apart, strict=True):
            middle = opinion.mean(axis=1, keepdims=True)
            told += common * middle + apart * (opinion - middle)
        return told


def fit_stack(
    first: Matrix, second: Matrix, scores: Matrix, start: tuple[float, float, float, float] = _START
) -> Stack:
    """From out-of-fold logits (n, arms) and scores in [0, 1], NaN where missing; log loss.

    `start`: the weights that few prompts fall back to, both opinions' on difficulty, then both on distances.
    """
    known = ~np.isnan(scores)
    y = np.where(known, scores, 0.0)
    parts = []
    for opinion in (first, second):
        middle = opinion.mean(axis=1, keepdims=True)
        parts.append((np.broadcast_to(middle, opinion.shape), opinion - middle))
    pieces = (parts[0][0], parts[1][0], parts[0][1], parts[1][1])
    arms = scores.shape[1]
    before = np.concatenate([start, np.zeros(arms)])
    penalty = np.concatenate([np.full(4, _PENALTY), np.full(arms, _OFFSET_PENALTY)])

    def objective(theta: Matrix) -> tuple[float, Matrix]:
        f = sum((w * piece for w, piece in zip(theta[:4], pieces, strict=True)), start=theta[4:][None])
        away = theta - before
        loss = float(np.sum(known * (np.logaddexp(0.0, f) - y * f)) + 0.5 * penalty @ (away * away))
        error = known * (expit(f) - y)
        slope = np.array([float(np.sum(error * piece)) for piece in pieces])
        return loss, np.concatenate([slope, error.sum(axis=0)]) + penalty * away

    bounds = [(0.0, _MOST)] * 4 + [(None, None)] * arms
    found = minimize(objective, before, jac=True, method="L-BFGS-B", bounds=bounds).x
    return Stack(found[:2].copy(), found[2:4].copy(), found[4:].copy())
