"""The two baselines that a router has to beat: nearest neighbours, and TF-IDF with logistic regression.

Both see the text alone, as their users would have them: scikit-learn's defaults over words and word pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from classifier.features.text import MAX_CHARS, bounded
from classifier.tables import Item

Matrix = NDArray[np.float64]
Predicted = tuple[Matrix, Matrix]

NEIGHBOURS = 30
_FEATURES = 50_000
_AT_ONCE = 512
_TOKEN = r"(?u)\w+"  # noqa: S105


def texts(items: Sequence[Item]) -> list[str]:
    """Each conversation as one text of bounded length."""
    return [bounded("\n".join(turn["content"] for turn in item.messages), MAX_CHARS) for item in items]


def knn_and_tfidf(
    fit_on: Sequence[str], scores: Matrix, tokens: Matrix, held_out: Sequence[str]
) -> tuple[Predicted, Predicted]:
    """p(success) and expected tokens (held out, arms) of both, from (n, arms) with NaN where missing.

    Neighbours: the mean of the 30 nearest by cosine that have the arm. Logistic regression: C = 1; its tokens
    are the arm's mean.
    """
    # a token needs a letter or a digit, or nothing would be left of some tables
    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, max_features=_FEATURES, token_pattern=_TOKEN
    )
    try:
        x, z = vectorizer.fit_transform(fit_on), vectorizer.transform(held_out)
    except ValueError:  # not a word in any prompt
        flat = _rates(scores, tokens, len(held_out))
        return flat, flat
    return _knn(x, scores, tokens, z), _logistic(x, scores, tokens, z)


def _rates(scores: Matrix, tokens: Matrix, count: int) -> Predicted:
    return np.tile(_means(scores), (count, 1)), np.tile(_means(tokens), (count, 1))


def _means(values: Matrix) -> Matrix:
    known = ~np.isnan(values)
    return np.asarray(np.where(known, values, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1))


def _knn(x: sparse.csr_matrix, scores: Matrix, tokens: Matrix, z: sparse.csr_matrix) -> Predicted:
    p, expected = _rates(scores, tokens, z.shape[0])
    count = min(NEIGHBOURS, x.shape[0])
    known = ~np.isnan(scores)
    right, spent = np.where(known, scores, 0.0), np.where(known, tokens, 0.0)
    for start in range(0, z.shape[0], _AT_ONCE):
        alike = (z[start : start + _AT_ONCE] @ x.T).toarray()
        near = np.argpartition(-alike, count - 1, axis=1)[:, :count]
        having = known[near].sum(axis=1)
        rows = slice(start, start + len(alike))
        for target, values in ((p, right), (expected, spent)):
            target[rows] = np.where(
                having > 0, values[near].sum(axis=1) / np.maximum(having, 1), target[rows]
            )
    return p, expected


def _logistic(x: sparse.csr_matrix, scores: Matrix, tokens: Matrix, z: sparse.csr_matrix) -> Predicted:
    p, expected = _rates(scores, tokens, z.shape[0])
    for arm in range(scores.shape[1]):
        rows = np.flatnonzero(~np.isnan(scores[:, arm]))
        y = scores[rows, arm]
        if not rows.size or y.min() == y.max():
            continue
        # a score between 0 and 1 is that share of a success: both classes, weighted
        soft = rows[(y > 0.0) & (y < 1.0)]
        at = np.concatenate([rows, soft])
        ones = np.concatenate([y >= 0.5, scores[soft, arm] < 0.5])
        weight = np.concatenate(
            [np.where(y >= 0.5, y, 1.0 - y), np.minimum(scores[soft, arm], 1.0 - scores[soft, arm])]
        )
        if ones.all() or not ones.any():
            continue
        model = LogisticRegression(max_iter=300).fit(x[at], ones, sample_weight=weight)
        p[:, arm] = model.predict_proba(z)[:, 1]
    return p, expected
