"""One sample's calibrated confidence: P(this very answer is right | prior p, what the sample shows).

First-accept (ReASC, arXiv 2601.02970): a single sample that is confident enough ends the plan. A sample's
own likelihood is no probability of being right; together with the prior it is put on that scale
(`confidence_fit`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from classifier.calibration import logit, sigmoid

Matrix = NDArray[np.float64]

VERSION = 1
"""Of the columns below; an artifact with another one is not read."""
FACTS = 4
COLUMNS = 6
_CLIP = 3.0  # deviations: a completion far longer than any that was recorded is long, not surely wrong
_LEAST_P = 1e-6


@dataclass(frozen=True, slots=True)
class SampleFacts:
    """What one finished sample shows.

    `mean_logprob` of its tokens (None where the engine gives none), `cut`: it ended at its length and not by
    itself, `answered`: an answer that can be compared was found in it.
    """

    mean_logprob: float | None
    completion_tokens: int
    cut: bool
    answered: bool

    def row(self) -> Matrix:
        """(1, FACTS), NaN for an unknown log-probability."""
        logprob = math.nan if self.mean_logprob is None else self.mean_logprob
        return np.array([[logprob, self.completion_tokens, self.cut, self.answered]], dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Confidence:
    """A logistic model of one arm on `columns`, which never falls as the prior rises.

    `weights` (COLUMNS,); `centre` and `inverse` (2,): mean and inverse deviation of the log-probability and
    of log(1 + tokens); `floor` bounds the result away from 0 and 1 by what its rows can show. The default is
    the prior as it is.
    """

    weights: tuple[float, ...] = (0.0, 1.0, 0.0, 0.0, 0.0, 0.0)
    centre: tuple[float, float] = (0.0, 0.0)
    inverse: tuple[float, float] = (0.0, 0.0)
    floor: float = 0.0

    def of(self, p: float, sample: SampleFacts) -> float:
        """P(right) in (0, 1) of a sample whose prior is `p`; without a log-probability it stays `p`."""
        if sample.mean_logprob is None or not math.isfinite(sample.mean_logprob):
            return p
        return float(self.apply(np.array([p]), sample.row())[0])

    def apply(self, p: Matrix, facts: Matrix) -> Matrix:
        """(n,) priors and (n, FACTS) -> (n,), NaN where a fact is."""
        logits = columns(p, facts, np.array(self.centre), np.array(self.inverse)) @ np.array(self.weights)
        return np.clip(sigmoid(logits), self.floor, 1.0 - self.floor)


def columns(p: Matrix, facts: Matrix, centre: Matrix, inverse: Matrix) -> Matrix:
    """(n, COLUMNS): 1, logit of the prior, standardised log-probability and log length, cut, answered."""
    prior = logit(np.clip(p, _LEAST_P, 1.0 - _LEAST_P))
    shape = np.clip((measures(facts) - centre) * inverse, -_CLIP, _CLIP)
    return np.column_stack([np.ones(len(p)), prior, shape, facts[:, 2:]])


def measures(facts: Matrix) -> Matrix:
    """(n, 2): mean log-probability and log(1 + tokens) of (n, FACTS)."""
    return np.column_stack([facts[:, 0], np.log1p(facts[:, 1])])
