"""What a classifier that has not seen them predicts for the prompts of a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from classifier.artifact import Artifact
from classifier.confidence_fit import fit_confidences
from classifier.evaluation.splits import parts
from classifier.predictor import Prediction, Predictor
from classifier.tables import MIN_ITEMS, OutcomeTable
from router.replay.errors import NothingToReplay

OUT_OF_FOLD = "out-of-fold"


@dataclass(frozen=True, slots=True)
class Beliefs:
    """Predictions for `table.items[at]`; `note` says in a sentence whose they are."""

    at: NDArray[np.intp]
    predictions: tuple[Prediction, ...]
    note: str


def beliefs(
    table: OutcomeTable, artifact: Artifact | None, seed: int = 0, done: Callable[[], None] = lambda: None
) -> Beliefs:
    """The artifact's own predictions, or those of its training repeated on the other parts of the table.

    The latter where the artifact has seen some of the prompts, knows none of the arms, or there is none. Of
    a large table one part is held out, and only its prompts are predicted. `done` is called after each part
    (`folds` of them). Raises NothingToReplay where there is too little to fit.
    """
    if artifact is not None:
        common = [arm for arm in table.arms if arm in artifact.arms]
        seen = artifact.seen(table)
        same = bool(table.sha256) and artifact.card.get("table_sha256") == table.sha256
        if common and not seen and not same:
            predictor = Predictor(artifact)
            told = tuple(predictor.predict(item.messages) for item in table.items)
            whose = f"Predictions are those of the classifier {artifact.version}"
            return Beliefs(np.arange(len(told)), told, f"{whose}, which has not seen these prompts.")
    return _out_of_fold(table, seed, done)


def folds(table: OutcomeTable, seed: int = 0) -> int:
    """How often `beliefs` calls `done` at most."""
    return len(parts(table, "items", seed))


def _out_of_fold(table: OutcomeTable, seed: int, done: Callable[[], None]) -> Beliefs:
    from classifier.features.matrix import feature_matrix
    from classifier.model import ArmClassifier

    if len(table.items) < MIN_ITEMS:
        raise NothingToReplay(
            f"the table has {len(table.items)} prompts, and no classifier is given that has not seen them: "
            f"record {MIN_ITEMS} or more, or name a classifier trained on others (--classifier)"
        )
    x = feature_matrix([item.messages for item in table.items])
    groups = table.content_groups()
    shape = table.scores.shape
    p, tokens, high = (np.full(shape, np.nan) for _ in range(3))
    novelty = np.full(len(table.items), np.nan)
    splits = parts(table, "items", seed)
    for kept, out in splits:
        model = ArmClassifier(arms=table.arms, one_class="rate", random_state=seed)
        families = [table.items[int(i)].family for i in kept]
        model.fit(x[kept], table.scores[kept], table.tokens[kept], groups[kept], families)
        p[out] = model.predict_proba(x[out])
        tokens[out], high[out] = model.predict_tokens(x[out])
        novelty[out] = model.novelty(x[out])
        done()
    cheapest = int(np.argmin(np.nanmean(table.tokens, axis=0)))
    told: dict[int, Prediction] = {}
    for kept, out in splits:
        # Judges of single samples are fitted without the prompts that they will judge, on honest priors.
        judges = fit_confidences(table.subset(kept), p[kept], groups[kept], seed).models
        for i in out.tolist():
            told[i] = Prediction(
                p=dict(zip(table.arms, p[i].tolist(), strict=True)),
                tokens=dict(zip(table.arms, tokens[i].tolist(), strict=True)),
                tokens_high=dict(zip(table.arms, high[i].tolist(), strict=True)),
                difficulty=1.0 - float(p[i, cheapest]),
                ood=float(novelty[i]),
                version=OUT_OF_FOLD,
                confidences=judges,
            )
    at = np.array(sorted(told), dtype=np.intp)
    note = (
        "Predictions are those of training repeated on parts of this table, each for the prompts that were "
        f"held out: {len(at):,} of {len(table.items):,}."
    )
    return Beliefs(at, tuple(told[int(i)] for i in at), note)
