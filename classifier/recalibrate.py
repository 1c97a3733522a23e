"""The same classifier with its probabilities put right on other traffic: only the calibration is fitted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.model_selection import GroupKFold

from classifier.artifact import Artifact, check_place, save
from classifier.calibration import brier, choose_calibrator, ece, ece_floor
from classifier.drift.of_training import reference_of_traffic
from classifier.encoded import encode
from classifier.errors import ArmsDiffer, TooFewItems
from classifier.features import COUNT
from classifier.features.expand import expand
from classifier.features.matrix import feature_matrix
from classifier.forward import Head, Weights, standardise
from classifier.meaning import encoder_for
from classifier.novelty import rare_shares
from classifier.tables import MIN_ITEMS, MIN_ITEMS_PER_ARM, OutcomeTable

Matrix = NDArray[np.float64]

_FOLDS = 5


@dataclass(frozen=True, slots=True)
class ArmChange:
    """Held-out figures of one arm before and after; `method` is the calibration now."""

    items: int
    method: str
    brier_before: float
    brier_after: float
    ece_before: float
    ece_after: float
    ece_floor: float


@dataclass(frozen=True, slots=True)
class Recalibrated:
    """`changes` by arm that was fitted; `left` are arms with too few rows, which stay as they were. `seen`:
    prompts left out because the classifier was trained on them."""

    version: str
    items: int
    seen: int
    changes: Mapping[str, ArmChange]
    left: tuple[str, ...]


def recalibrate(
    artifact: Artifact, table: OutcomeTable, out: str | Path, seed: int, date: str
) -> Recalibrated:
    """Fit calibration curves and base rates on `table` and save the rest unchanged to `out`.

    Prompts that the classifier was trained on do not count: it knows their answers. Raises ArmsDiffer without
    an arm in common, TooFewItems below 40 new prompts, OneClassOnly, ArtifactError if `out` cannot be
    written.
    """
    fresh = np.flatnonzero(~np.isin(table.fingerprints(), artifact.weights.seen))
    seen = len(table.items) - fresh.size
    table = table.subset(fresh)
    common = [arm for arm in artifact.arms if arm in table.arms]
    if not common:
        raise ArmsDiffer(f"the table has none of the classifier's arms {', '.join(artifact.arms)}")
    if len(table.items) < MIN_ITEMS:
        raise TooFewItems(
            f"{len(table.items)} prompts that the classifier was not trained on; {MIN_ITEMS} are needed"
        )
    table.check_enough()
    check_place(out)
    table.only_arms(common).check_two_classes()
    told = [item.messages for item in table.items]
    logits, ood = _forward(artifact.weights, feature_matrix(told))
    meaning = artifact.weights.meaning
    if meaning is not None:
        logits += meaning.logits(encode(told, encoder_for(meaning)).vectors)
    groups = table.content_groups()
    count = min(_FOLDS, len(np.unique(groups)))
    folds = list(GroupKFold(count, shuffle=True, random_state=seed).split(logits, groups=groups))
    scores = np.full(logits.shape, np.nan)
    for arm in common:
        scores[:, artifact.arms.index(arm)] = table.scores[:, table.arms.index(arm)]
    old = artifact.weights.head
    before, after = old.probabilities(logits, ood), np.empty_like(logits)
    for kept, held_out in folds:
        head = _refit(old, logits[kept], scores[kept], groups[kept])
        after[held_out] = head.probabilities(logits[held_out], ood[held_out])
    head = _refit(old, logits, scores, groups)
    changes: dict[str, ArmChange] = {}
    for column, arm in enumerate(artifact.arms):
        known = ~np.isnan(scores[:, column])
        if _enough(scores[:, column]):
            y, a, b = scores[known, column], before[known, column], after[known, column]
            changes[arm] = ArmChange(
                items=int(known.sum()),
                method=head.calibrators[column].method,
                brier_before=brier(a, y),
                brier_after=brier(b, y),
                ece_before=ece(a, y),
                ece_after=ece(b, y),
                ece_floor=ece_floor(b),
            )
    card: dict[str, Any] = {
        **artifact.card,
        "calibration": {a: c.method for a, c in zip(artifact.arms, head.calibrators, strict=True)},
        "calibrated": {
            "from": artifact.version,
            "date": date,
            "table_sha256": table.sha256,
            "items": len(table.items),
            "metrics": {arm: asdict(change) for arm, change in changes.items()},
        },
    }
    weights = replace(artifact.weights, head=head)
    spent = np.full(logits.shape, np.nan)
    for arm in common:
        spent[:, artifact.arms.index(arm)] = table.tokens[:, table.arms.index(arm)]
    # what it is calibrated on is now what it expects to see
    reference = reference_of_traffic(replace(artifact, weights=weights), told, spent)
    known = np.union1d(artifact.weights.seen, table.fingerprints())
    version = save(out, artifact.arms, replace(weights, reference=reference, seen=known), card)
    left = tuple(arm for arm in artifact.arms if arm not in changes)
    return Recalibrated(version, len(table.items), seen, changes, left)


def _forward(weights: Weights, x: sparse.csr_matrix) -> tuple[Matrix, Matrix]:
    """Logits (n, arms) and out-of-distribution scores (n,) of raw features, as serving has them."""
    structural = x[:, :COUNT].toarray()
    columns = standardise(expand(structural), weights.mean, weights.inverse)
    arms = weights.arms
    logits = columns @ weights.structural[:, :arms] + weights.intercept[:arms]
    logits = logits + x[:, COUNT:] @ weights.lexical[:, :arms].astype(np.float64)
    return logits, weights.novelty.score(structural, rare_shares(x, weights.novelty.rare))


def _enough(column: Matrix) -> bool:
    return int(np.count_nonzero(~np.isnan(column))) >= MIN_ITEMS_PER_ARM


def _refit(old: Head, logits: Matrix, scores: Matrix, groups: NDArray[np.intp]) -> Head:
    """New curves and base rates for arms with enough rows; the others keep theirs."""
    calibrators, base = list(old.calibrators), old.base.copy()
    for arm, column in enumerate(scores.T):
        known = ~np.isnan(column)
        if _enough(column):
            folds = groups[known] % _FOLDS
            calibrators[arm] = choose_calibrator(logits[known, arm], column[known], folds)
            # two pseudo-rows at the old rate
            rate = (column[known].sum() + 2.0 * old.base[arm]) / (known.sum() + 2.0)
            base[arm] = np.clip(rate, old.floor[arm], 1.0 - old.floor[arm])
    return replace(old, calibrators=tuple(calibrators), base=base)
