"""Classifiers fitted on half of a recorded table, and windows of the other half, changed in named ways."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold

from classifier.drift.look import Look, Window, look
from classifier.drift.of_training import reference_of_training
from classifier.drift.reference import Reference, binned, signal_rows
from classifier.features import COUNT
from classifier.features.matrix import feature_matrix
from classifier.model import ArmClassifier
from classifier.tables import OutcomeTable

Matrix = NDArray[np.float64]
Rows = NDArray[np.intp]

_DISTRUST = 0.5
_PREFACE = (
    "I am putting together a worksheet for my pupils and would like to check the answer key before I print "
    "it. They have an hour and may not use a calculator. Here is the task as it will stand on the sheet. "
)


@dataclass(frozen=True, slots=True)
class Trial:
    """A classifier's reference, and rows that it has not seen with what it makes of them, all (n, ...)."""

    reference: Reference
    table: OutcomeTable
    structural: Matrix
    ood: Matrix
    p: Matrix
    expected: Matrix
    high: Matrix

    def look(self, rows: Rows, rng: np.random.Generator, kept: float = 1.0, longer: float = 1.0) -> Look:
        """A window of these rows; each right answer stays right with probability `kept`, tokens grow."""
        scores = self.table.scores[rows] * (rng.random((rows.size, len(self.table.arms))) < kept)
        tokens = self.table.tokens[rows] * longer
        p, expected, high = self.p[rows], self.expected[rows], self.high[rows]
        signals = signal_rows(self.structural[rows], self.ood[rows], p, expected, tokens)
        named = list(enumerate(self.table.arms))
        window = Window(
            rows.size,
            binned(self.reference.edges, signals),
            {arm: (p[:, a], scores[:, a]) for a, arm in named},
            {arm: (expected[:, a], high[:, a], tokens[:, a]) for a, arm in named},
        )
        return look(self.reference, self.table.arms, window)


@dataclass(frozen=True, slots=True)
class Setting:
    """Live rows as they are, with longer prompts, and of families that were left out of training."""

    plain: Trial
    longer: Trial
    unseen: Trial


def settings(table: OutcomeTable, count: int) -> Iterator[Setting]:
    """`count` random halves; the same table gives the same ones."""
    for seed in range(count):
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(table.items))
        fit_on, rest = np.sort(order[: len(order) // 2]), order[len(order) // 2 :]
        model, reference = _fitted(table.subset(fit_on), seed)
        live = table.subset(rest)
        plain = _trial(model, reference, live)
        preface = [[{"role": "user", "content": _PREFACE + m["content"]} for m in item.messages]
                   for item in live.items]  # fmt: skip
        longer = _trial(model, reference, live, preface)
        left_out = set(rng.permutation(np.array(table.families))[: len(table.families) // 3].tolist())
        known = np.array([table.items[int(i)].family not in left_out for i in fit_on])
        other, its_reference = _fitted(table.subset(fit_on[known]), seed)
        unseen = _trial(other, its_reference, live.subset(
            [i for i, item in enumerate(live.items) if item.family in left_out]))  # fmt: skip
        yield Setting(plain, longer, unseen)


def windows(setting: Setting, size: int, rng: np.random.Generator) -> Mapping[str, Look]:
    """One window of `size` rows a scenario; without repetition where there are so many rows."""
    plain = setting.plain
    items = plain.table.items
    some = rng.permutation(np.array(plain.table.families))[: len(plain.table.families) // 2]

    def drawn(able: Rows) -> Rows:
        return rng.choice(able, size, replace=able.size < size)

    everything = np.arange(len(items))
    few = np.array([i for i in everything if items[int(i)].family in some], dtype=np.intp)
    hard = np.array([i for i in everything if "-hard-" in items[int(i)].prompt_id], dtype=np.intp)
    strange = np.arange(len(setting.unseen.table.items))
    return {
        "no drift": plain.look(drawn(everything), rng),
        "half the families": plain.look(drawn(few), rng),
        "only hard": plain.look(drawn(hard), rng),
        "longer prompts": setting.longer.look(drawn(everything), rng),
        "engine worse": plain.look(drawn(everything), rng, kept=0.6),
        "engine much worse": plain.look(drawn(everything), rng, kept=0.3),
        "longer answers": plain.look(drawn(everything), rng, longer=1.5),
        "tasks never seen": setting.unseen.look(drawn(strange), rng),
    }


def _fitted(table: OutcomeTable, seed: int) -> tuple[ArmClassifier, Reference]:
    x, groups = feature_matrix([item.messages for item in table.items]), table.content_groups()
    quarters = list(GroupKFold(4, shuffle=True, random_state=seed).split(x, groups=groups))
    held_out = [
        (out, _model(table.arms, seed).fit(x[kept], table.scores[kept], table.tokens[kept], groups[kept]))
        for kept, out in quarters
    ]
    model = _model(table.arms, seed).fit(x, table.scores, table.tokens, groups)
    return model, reference_of_training(model, held_out, x, table.tokens)


def _model(arms: tuple[str, ...], seed: int) -> ArmClassifier:
    return ArmClassifier(arms=arms, distrust=_DISTRUST, one_class="rate", random_state=seed)


def _trial(
    model: ArmClassifier,
    reference: Reference,
    table: OutcomeTable,
    asked: list[list[dict[str, str]]] | None = None,
) -> Trial:
    x = feature_matrix([item.messages for item in table.items] if asked is None else asked)
    expected, high = model.predict_tokens(x)
    structural = x[:, :COUNT].toarray()
    return Trial(reference, table, structural, model.novelty(x), model.predict_proba(x), expected, high)
