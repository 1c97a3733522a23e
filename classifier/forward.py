"""The fitted classifier as arrays, and the arithmetic that serving does with them: numpy alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from classifier.calibration import Calibrator, logit, sigmoid
from classifier.confidence import Confidence
from classifier.drift.reference import Reference
from classifier.features.lexical import WORD_BUCKETS
from classifier.ladders import raise_monotone

Matrix = NDArray[np.float64]

# No column may weigh more than this many deviations: a 10 MB prompt is long, not infinitely hard.
_CLIP = 5.0
# Radii from the nearest kind of training prompt, where no kinds could be left out to learn them: held-out
# prompts of known kinds lie within 1.5, known tasks in new words between 2 and 5.
KNOWN, UNKNOWN = 2.5, 6.5


def standardise(columns: Matrix, mean: Matrix, inverse: Matrix) -> Matrix:
    """(x - mean) * inverse, within five deviations; a column with inverse 0 counts for nothing."""
    return np.clip((columns - mean) * inverse, -_CLIP, _CLIP)


@dataclass(frozen=True, slots=True)
class Head:
    """Logits -> probabilities, per arm: calibrated, drawn towards the base rate, monotone along ladders.

    `base` (arms,) are smoothed base rates; `trust` (arms,) in [0, 1) grows with the rows an arm was
    fitted on: the calibrated logit counts that much, the base rate's the rest. `floor` (arms,) bounds p
    away from 0 and 1 by what that many rows can show. `distrust` in [0, 1] is how far p moves to the base
    rate on a prompt unlike any other.
    """

    calibrators: tuple[Calibrator, ...]
    base: Matrix
    trust: Matrix
    floor: Matrix
    distrust: float
    ladders: tuple[tuple[int, ...], ...]

    def probabilities(self, logits: Matrix, ood: Matrix) -> Matrix:
        """(n, arms) logits and (n,) out-of-distribution scores in [0, 1] -> (n, arms) p(success)."""
        calibrated = np.stack([c.apply(logits[:, a]) for a, c in enumerate(self.calibrators)], axis=1)
        bounded = np.clip(calibrated, self.floor, 1.0 - self.floor)
        p = sigmoid(self.trust * logit(bounded) + (1.0 - self.trust) * logit(self.base))
        p = p + self.distrust * ood[:, None] * (self.base - p)
        return raise_monotone(p, self.ladders)


@dataclass(frozen=True, slots=True)
class TokenHead:
    """Log tokens -> tokens, per arm (arms,): within the logs seen (`low`, `high`), rescaled by `smear`
    so that means add up (Duan 1983), and `multiplier` times the mean is the 95 % quantile."""

    low: Matrix
    high: Matrix
    smear: Matrix
    multiplier: Matrix

    def tokens(self, log_tokens: Matrix) -> tuple[Matrix, Matrix]:
        """(n, arms) predicted logs -> expected completion tokens and their 95 % quantile."""
        mean = np.exp(np.clip(log_tokens, self.low, self.high)) * self.smear
        return mean, mean * self.multiplier


@dataclass(frozen=True, slots=True)
class Novelty:
    """How unlike every kind of training prompt one is, from 0 to 1; of two signs the stronger counts.

    Shape: 0 within `known` radii of the nearest kind, 1 from `unknown`. `prototypes` (k, COUNT) are means of
    kinds of prompts in standardised named columns (a diagonal Mahalanobis distance), `radii` (k,) hold 95 %
    of each kind's own prompts. Words: the share of a prompt's lexical mass in buckets that are `rare`
    (WORD_BUCKETS,) in training, 0 up to `rare_limit`, which 95 % of the training prompts keep to, and 1 from
    `rare_to` of the way from there to all of it. Where the ramps lie is learnt (`distrust`).
    """

    mean: Matrix
    inverse: Matrix
    prototypes: Matrix
    radii: Matrix
    rare: NDArray[np.bool_]
    rare_limit: float
    known: float = KNOWN
    unknown: float = UNKNOWN
    rare_to: float = 1.0

    def score(self, structural: Matrix, rare_share: Matrix) -> Matrix:
        """(n, COUNT) raw named columns and (n,) shares in [0, 1] -> (n,) in [0, 1]."""
        return self.ramp(*self.signs(structural, rare_share))

    def signs(self, structural: Matrix, rare_share: Matrix) -> tuple[Matrix, Matrix]:
        """(n,) radii from the nearest kind, and (n,) how far words are rarer than usual, at most 1."""
        at, distance = nearest(standardise(structural, self.mean, self.inverse), self.prototypes)
        return distance / self.radii[at], (rare_share - self.rare_limit) / max(1.0 - self.rare_limit, 1e-9)

    def ramp(self, shape: Matrix, rare: Matrix) -> Matrix:
        """(n,) of both signs -> (n,) in [0, 1]."""
        by_shape = (shape - self.known) / (self.unknown - self.known)
        return np.clip(np.maximum(by_shape, rare / self.rare_to), 0.0, 1.0)

    def rare_share(self, buckets: NDArray[np.intp], values: Matrix) -> float:
        """Share of one prompt's squared word values that lies in rare buckets; 1 without words."""
        words = int(np.searchsorted(buckets, WORD_BUCKETS))
        mass = values[:words] ** 2
        total = float(mass.sum())
        return float(mass[self.rare[buckets[:words]]].sum()) / total if total else 1.0


@dataclass(frozen=True, slots=True)
class Meaning:
    """What vectors of sentences add to the arms' logits: `weights` (d, arms) times vector less `mean` (d,).

    `encoder` and `digest` name the encoder, and the sha256 of its weights.
    """

    encoder: str
    digest: str
    mean: Matrix
    weights: Matrix

    def logits(self, vectors: Matrix) -> Matrix:
        """(n, d) -> (n, arms). A row of zeros, which the encoder could not see, adds nothing."""
        seen = vectors.any(axis=1, keepdims=True)
        return np.asarray(np.where(seen, vectors - self.mean, 0.0) @ self.weights)


def nearest(points: Matrix, prototypes: Matrix) -> tuple[NDArray[np.intp], Matrix]:
    """Index of and Euclidean distance to the nearest prototype (k, d) of each point (n, d)."""
    lengths = np.sum(points * points, axis=1)[:, None] + np.sum(prototypes * prototypes, axis=1)
    squares = np.maximum(lengths - 2.0 * (points @ prototypes.T), 0.0)
    at = np.argmin(squares, axis=1)
    return at, np.sqrt(squares[np.arange(len(points)), at])


@dataclass(frozen=True, slots=True)
class Weights:
    """Everything that serving needs. Columns of the linear maps: arms' logits, then arms' log tokens.

    `mean`, `inverse` (EXPANDED,); `structural` (EXPANDED, 2 arms); `lexical` (WIDTH, 2 arms) float32;
    `intercept` (2 arms,); `typical_tokens` (arms,) orders the arms by cost. `confidences` by index of the
    arm, for those that draw one sample; empty in artifacts from before there were any. `seen`: fingerprints
    of the training prompts (`OutcomeTable.fingerprints`), ascending; serving does not look at them.
    `reference` says what traffic to expect; None in artifacts from before there was one. `meaning`: the
    opinion of a sentence encoder, for those trained with one.
    """

    mean: Matrix
    inverse: Matrix
    structural: Matrix
    lexical: NDArray[np.float32]
    intercept: Matrix
    typical_tokens: Matrix
    head: Head
    token_head: TokenHead
    novelty: Novelty
    confidences: Mapping[int, Confidence] = field(default_factory=dict)
    seen: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    reference: Reference | None = None
    meaning: Meaning | None = None

    @property
    def arms(self) -> int:
        return self.typical_tokens.size
