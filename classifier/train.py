"""From an outcome table to an artifact, with figures from prompts and families that were held out."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from numpy.typing import NDArray
from scipy import sparse
from sklearn.model_selection import GroupKFold

from classifier.artifact import check_place, save
from classifier.confidence_fit import fit_confidences
from classifier.drift.of_training import reference_of_training
from classifier.encoded import Encoded
from classifier.evaluate import FrontierRow, arm_metrics, frontier
from classifier.features.matrix import feature_matrix
from classifier.model import ArmClassifier
from classifier.search import Strength
from classifier.tables import OutcomeTable

Matrix = NDArray[np.float64]

_QUARTERS = 4
# Below this many prompts a single held-out quarter is too small to read: every quarter takes its turn.
_SMALL_TABLE = 2_000
_MOST_FAMILY_FITS = 8
# Above this many prompts a fit takes tens of seconds, and a bundle holds thousands: three are enough.
_LARGE_TABLE = 10_000
_FEWER_FAMILY_FITS = 3


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What was trained and how well it does on what it had not seen.

    `held_out_items` and `held_out_families` are `evaluate.arm_metrics` by arm; the latter is None below three
    families. `confidence` is `confidence_fit.Fitted.metrics`. `strength` and `distrust` are those of the
    final model, which is fitted on everything.
    """

    artifact: Path
    version: str
    rows: int
    items: int
    families: tuple[str, ...]
    arms: tuple[str, ...]
    base_rates: Mapping[str, float]
    typical_tokens: Mapping[str, float]
    held_out_items: Mapping[str, Mapping[str, Any]]
    held_out_families: Mapping[str, Mapping[str, Any]] | None
    frontier: tuple[FrontierRow, ...]
    confidence: Mapping[str, Mapping[str, Any]]
    strength: Strength
    distrust: float


@dataclass(frozen=True, slots=True)
class _HeldOut:
    """Predictions (n, arms) by models that had not seen the prompt, NaN where it was never held out.

    `models` are those models, each with the rows that it had not seen.
    """

    p: Matrix
    base: Matrix
    tokens: Matrix
    models: list[tuple[NDArray[np.intp], ArmClassifier]] = field(default_factory=list)

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> _HeldOut:
        return cls(np.full(shape, np.nan), np.full(shape, np.nan), np.full(shape, np.nan))


def train(
    table: OutcomeTable, out: str | Path, seed: int, date: str, encoded: Encoded | None = None
) -> TrainReport:
    """Hold out, measure, fit on everything, save to `out`; the same arguments give the same files.

    A quarter of the prompts is held out (each quarter in turn where there are few), grouped by content;
    with three families or more each is left out too. `date` goes on the card. `encoded`: the prompts'
    vectors, for a third opinion. Raises TableError if the table cannot be learnt from, ArtifactError if `out`
    cannot be written.
    """
    table.check_trainable()
    check_place(out)
    x = feature_matrix([item.messages for item in table.items])
    if encoded is not None:
        x = encoded.beside(x)
    groups = table.content_groups()
    held_out, strength = _hold_out_items(table, x, groups, seed)
    families = _hold_out_families(table, x, groups, strength, seed)
    model = _fit(ArmClassifier(arms=table.arms, random_state=seed), table, x, groups)
    distrust, novelty = model.head_.distrust, model.novelty_
    items = arm_metrics(table.arms, held_out.p, table.scores, held_out.base)
    other = None if families is None else arm_metrics(table.arms, families.p, table.scores, families.base)
    rows = frontier(table.arms, held_out.p, held_out.tokens, table.scores, table.tokens)
    confidence = fit_confidences(table, held_out.p, groups, seed)
    base_rates = dict(zip(table.arms, np.nanmean(table.scores, axis=0).tolist(), strict=True))
    typical = dict(zip(table.arms, model.typical_tokens_.tolist(), strict=True))
    card: dict[str, Any] = {
        "date": date,
        "seed": seed,
        "table_sha256": table.sha256,
        "counts": {"rows": table.rows, "items": len(table.items), "families": len(table.families)},
        "base_rates": base_rates,
        "typical_tokens": typical,
        "metrics": {
            "held_out_items": items,
            "held_out_families": other,
            "frontier": [asdict(row) for row in rows],
            "confidence": confidence.metrics,
        },
        "strength": {**asdict(model.strength_), "distrust": distrust, "words_c": model.words_c_},
        "unlike": {"known": novelty.known, "unknown": novelty.unknown, "rare_to": novelty.rare_to},
        "stack": {"common": model.stack_.common.tolist(), "apart": model.stack_.apart.tolist()},
        "calibration": {arm: c.method for arm, c in zip(table.arms, model.head_.calibrators, strict=True)},
        "ladders": [[table.arms[i] for i in ladder] for ladder in model.head_.ladders],
        "libraries": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scikit-learn": sklearn.__version__,
        },
    }
    exported = model.export()
    if encoded is not None and model.meaning_ is not None:
        card["encoder"] = {"name": encoded.encoder, "sha256": encoded.digest, "c": model.meaning_.c}
        card["stack"]["meaning"] = [model.meaning_.stack.common[1], model.meaning_.stack.apart[1]]
    # what is served doubts prompts by its own ramps; each fit on a part learnt others
    doubting = [(out, other.doubting_as(model)) for out, other in held_out.models]
    judges = {table.arms.index(arm): judge for arm, judge in confidence.models.items()}
    weights = replace(
        exported,
        meaning=encoded.named(exported.meaning) if encoded is not None else None,
        confidences=judges,
        seen=np.unique(table.fingerprints()),
        reference=reference_of_training(model, doubting, x, table.tokens),
    )
    version = save(out, table.arms, weights, card)
    return TrainReport(
        artifact=Path(out),
        version=version,
        rows=table.rows,
        items=len(table.items),
        families=table.families,
        arms=table.arms,
        base_rates=base_rates,
        typical_tokens=typical,
        held_out_items=items,
        held_out_families=other,
        frontier=tuple(rows),
        confidence=confidence.metrics,
        strength=model.strength_,
        distrust=distrust,
    )


def _fit(
    model: ArmClassifier, table: OutcomeTable, x: sparse.csr_matrix, groups: NDArray[np.intp]
) -> ArmClassifier:
    return model.fit(x, table.scores, table.tokens, groups, [item.family for item in table.items])


def _hold_out_items(
    table: OutcomeTable, x: sparse.csr_matrix, groups: NDArray[np.intp], seed: int
) -> tuple[_HeldOut, Strength]:
    """Predictions for held-out quarters, and the strength of fit that the first of them found."""
    found = _HeldOut.empty(table.scores.shape)
    quarters = list(GroupKFold(_QUARTERS, shuffle=True, random_state=seed).split(x, groups=groups))
    strength: Strength | None = None
    for kept, out in quarters if len(table.items) < _SMALL_TABLE else quarters[:1]:
        model = ArmClassifier(arms=table.arms, one_class="rate", random_state=seed)
        _fit(model, table.subset(kept), x[kept], groups[kept])
        found.p[out], found.base[out] = model.predict_proba(x[out]), model.head_.base
        found.tokens[out] = model.predict_tokens(x[out])[0]
        found.models.append((out, model))
        strength = strength or model.strength_
    if strength is None:
        raise ValueError("no quarter was held out")
    return found, strength


def _hold_out_families(
    table: OutcomeTable, x: sparse.csr_matrix, groups: NDArray[np.intp], strength: Strength, seed: int
) -> _HeldOut | None:
    """Predictions for families left out, one at a time or in bundles; None below three families."""
    names = [item.family for item in table.items]
    count = len(table.families)
    if count < 3:
        return None
    found = _HeldOut.empty(table.scores.shape)
    most = _MOST_FAMILY_FITS if len(names) < _LARGE_TABLE else _FEWER_FAMILY_FITS
    for kept, out in GroupKFold(min(count, most), shuffle=True, random_state=seed).split(x, groups=names):
        model = ArmClassifier(
            arms=table.arms,
            cs=(strength.c,),
            pulls=(strength.pull,),
            lexical_scales=(strength.lexical,),
            one_class="rate",
            random_state=seed,
        )
        _fit(model, table.subset(kept), x[kept], groups[kept])
        found.p[out], found.base[out] = model.predict_proba(x[out]), model.head_.base
    return found
