"""Learn what is ordinary, so that `forward.Novelty` can tell what is not."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.cluster import KMeans

from classifier.features import COUNT
from classifier.features.lexical import WORD_BUCKETS
from classifier.features.structural import AROUND
from classifier.forward import Novelty, nearest, standardise

Matrix = NDArray[np.float64]

_MOST_PROTOTYPES = 24
_ROWS_PER_PROTOTYPE = 40
_QUANTILE = 0.95
# Named columns that hardly varied in training are measured with this deviation, not with their own.
_LEAST_DEVIATION = 0.2
_LEAST_RADIUS = 2.0
_RARE = 0.001


def fit_novelty(x: sparse.csr_matrix, random_state: int) -> Novelty:
    """Learn kinds of prompts (k-means) and rare words from (n, COUNT + WIDTH) raw features.

    The radii come from prompts that the prototypes were not fitted on: a quarter is held out for them,
    or a small table's prototypes would lie too close to their own prompts.
    """
    structural = x[:, :COUNT].toarray()
    mean, deviation = structural.mean(axis=0), structural.std(axis=0)
    inverse = 1.0 / np.maximum(deviation, _LEAST_DEVIATION)
    # a table of single questions says nothing about conversations: the question counts, wherever it stands
    inverse[AROUND:][deviation[AROUND:] < 1e-9] = 0.0
    z = standardise(structural, mean, inverse)
    n = len(z)
    order = np.random.default_rng(random_state).permutation(n)
    held_out, fitted = order[: n // 4], order[n // 4 :]
    distinct = len(np.unique(z[fitted], axis=0))
    wanted = max(1, min(n // _ROWS_PER_PROTOTYPE, _MOST_PROTOTYPES, distinct))
    means = KMeans(wanted, n_init=2, random_state=random_state).fit(z[fitted]).cluster_centers_
    at, distance = nearest(z[held_out] if held_out.size else z, means)
    overall = float(np.quantile(distance, _QUANTILE))
    radii = np.full(wanted, overall)
    for prototype in range(wanted):
        mine = distance[at == prototype]
        if mine.size >= 10:
            radii[prototype] = float(np.quantile(mine, _QUANTILE))
    rare, limit = _rare_words(x)
    return Novelty(mean, inverse, means, np.maximum(radii, _LEAST_RADIUS), rare, limit)


def _rare_words(x: sparse.csr_matrix) -> tuple[NDArray[np.bool_], float]:
    """Buckets that fewer than 0.1 % of the prompts (or none) have, and the share of them that is ordinary.

    For the latter each prompt is judged without itself, or its own words could never be new.
    """
    words = sparse.csr_matrix(x[:, COUNT : COUNT + WORD_BUCKETS])
    having = np.bincount(words.indices, minlength=WORD_BUCKETS)
    needed = max(1.0, _RARE * x.shape[0])
    limit = float(np.quantile(rare_shares(x, having - 1 < needed), _QUANTILE))
    return having < needed, limit


def rare_shares(x: sparse.csr_matrix, rare: NDArray[np.bool_]) -> Matrix:
    """`Novelty.rare_share` of every row of (n, COUNT + WIDTH)."""
    squares = sparse.csr_matrix(x[:, COUNT : COUNT + WORD_BUCKETS]).power(2)
    total = np.asarray(squares.sum(axis=1)).ravel()
    strange = np.asarray(squares @ rare.astype(np.float64)).ravel()
    return np.where(total > 0.0, strange / np.where(total > 0.0, total, 1.0), 1.0)
