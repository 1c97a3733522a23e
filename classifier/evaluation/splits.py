"""Every contender's predictions for prompts that it has not seen: the same splits for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold

from classifier.evaluation.baselines import knn_and_tfidf, texts
from classifier.features.matrix import feature_matrix
from classifier.model import ArmClassifier
from classifier.tables import OutcomeTable

Matrix = NDArray[np.float64]
By = Literal["items", "families"]

ROUTER, KNN, TFIDF = "router", "kNN", "TF-IDF + LR"
_FOLDS = 5
# Above this many prompts one or two held-out parts say enough, and five fits take minutes.
_LARGE = 5_000
_LARGE_FOLDS = 1


@dataclass(frozen=True, slots=True)
class Beliefs:
    """What one contender believes of the held-out prompts: p(success) and expected tokens, (n, arms)."""

    p: Matrix
    tokens: Matrix

    def at(self, rows: NDArray[np.intp]) -> Beliefs:
        """Those about these rows."""
        return Beliefs(self.p[rows], self.tokens[rows])


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Prompts of a table that were held out (indices `at`), and each contender's beliefs about them.

    `fold` (len(at),) numbers the held-out part that a prompt was in, and `round` the split of the table:
    where there are several, each prompt stands there once a split.
    """

    by: By
    at: NDArray[np.intp]
    fold: NDArray[np.intp]
    round: NDArray[np.intp]
    beliefs: Mapping[str, Beliefs]


def parts(table: OutcomeTable, by: By, seed: int) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """(fitted on, held out) of each part: fifths of the prompts, copies together, or bundles of families.

    Empty if there are fewer than three families, or one prompt alone. Of a large table one part is held out,
    not all in turn.
    """
    groups: Sequence[object] | NDArray[np.intp]
    if by == "families":
        groups = [item.family for item in table.items]
        count = min(len(table.families), _FOLDS)
        if count < 3:
            return []
    else:
        groups = table.content_groups()
        count = min(len(np.unique(groups)), _FOLDS)
        if count < 2:
            return []
    rows = np.arange(len(table.items))
    found = list(GroupKFold(count, shuffle=True, random_state=seed).split(rows, groups=groups))
    return found[:_LARGE_FOLDS] if len(rows) > _LARGE else found


def hold_out(
    table: OutcomeTable, by: By, seed: int, done: Callable[[], None] = lambda: None, rounds: int = 1
) -> HeldOut | None:
    """Fit router and baselines on each part's rest; None where there are too few families.

    `rounds` splits are made, with seeds from `seed` on: what one split happens to give is luck. `done` is
    called after each part.
    """
    by_round = [parts(table, by, seed + number) for number in range(rounds)]
    splits = [part for found in by_round for part in found]
    if not splits:
        return None
    rounds_of = [number for number, found in enumerate(by_round) for _ in found]
    conversations = [item.messages for item in table.items]
    x, words, groups = feature_matrix(conversations), texts(table.items), table.content_groups()
    found: dict[str, list[Beliefs]] = {ROUTER: [], KNN: [], TFIDF: []}
    for number, (kept, out) in zip(rounds_of, splits, strict=True):
        scores, tokens = table.scores[kept], table.tokens[kept]
        model = ArmClassifier(arms=table.arms, one_class="rate", random_state=seed + number)
        model.fit(x[kept], scores, tokens, groups[kept], [table.items[int(i)].family for i in kept])
        found[ROUTER].append(Beliefs(model.predict_proba(x[out]), model.predict_tokens(x[out])[0]))
        pair = knn_and_tfidf([words[i] for i in kept], scores, tokens, [words[i] for i in out])
        for name, predicted in zip((KNN, TFIDF), pair, strict=True):
            found[name].append(Beliefs(*predicted))
        done()
    return HeldOut(
        by=by,
        at=np.concatenate([out for _, out in splits]),
        fold=np.concatenate([np.full(len(out), number) for number, (_, out) in enumerate(splits)]),
        round=np.concatenate([np.full(len(o), r) for r, (_, o) in zip(rounds_of, splits, strict=True)]),
        beliefs={
            name: Beliefs(np.concatenate([b.p for b in told]), np.concatenate([b.tokens for b in told]))
            for name, told in found.items()
        },
    )
