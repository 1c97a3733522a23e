"""Many conversations as one sparse matrix, for training; serving never comes here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy import sparse

from classifier.features import COUNT, WIDTH, extract


def feature_matrix(conversations: Iterable[Sequence[Mapping[str, str]]]) -> sparse.csr_matrix:
    """(n, COUNT + WIDTH): the structural columns, then the lexical ones."""
    features = [extract(messages) for messages in conversations]
    structural = np.array([f.structural for f in features]).reshape(len(features), COUNT)
    ends = np.cumsum([0, *(f.buckets.size for f in features)])
    values = np.concatenate([np.empty(0), *(f.values for f in features)])
    buckets = np.concatenate([np.empty(0, dtype=np.intp), *(f.buckets for f in features)])
    words = sparse.csr_matrix((values, buckets, ends), shape=(len(features), WIDTH))
    return sparse.csr_matrix(sparse.hstack([sparse.csr_matrix(structural), words]))
