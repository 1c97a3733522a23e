"""`Weights` as named arrays without objects in them, and back with every shape and number checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classifier.calibration import MAX_KNOTS, METHODS, Calibrator
from classifier.confidence import COLUMNS, VERSION, Confidence
from classifier.drift.reference import reference_arrays, reference_from
from classifier.errors import ArtifactCorrupt, ArtifactIncompatible
from classifier.features import COUNT, WIDTH
from classifier.features.expand import EXPANDED
from classifier.features.lexical import WORD_BUCKETS
from classifier.forward import Head, Meaning, Novelty, TokenHead, Weights

Arrays = Mapping[str, NDArray[Any]]


def to_arrays(weights: Weights) -> dict[str, NDArray[Any]]:
    """Every array by name; ladders and curves of different lengths are padded."""
    head, tokens, novelty = weights.head, weights.token_head, weights.novelty
    ladders = np.full((len(head.ladders), weights.arms), -1, dtype=np.int64)
    for row, ladder in enumerate(head.ladders):
        ladders[row, : len(ladder)] = ladder
    knots = np.zeros((2, weights.arms, MAX_KNOTS))
    for arm, calibrator in enumerate(head.calibrators):
        size = calibrator.knots_x.size
        knots[0, arm, :size], knots[1, arm, :size] = calibrator.knots_x, calibrator.knots_y
    return {
        "mean": weights.mean,
        "inverse": weights.inverse,
        "structural": weights.structural,
        "lexical": weights.lexical,
        "intercept": weights.intercept,
        "typical_tokens": weights.typical_tokens,
        "head_base": head.base,
        "head_trust": head.trust,
        "head_floor": head.floor,
        "head_distrust": np.array(head.distrust),
        "head_ladders": ladders,
        "head_method": np.array([METHODS.index(c.method) for c in head.calibrators], dtype=np.int64),
        "head_slope": np.array([c.slope for c in head.calibrators]),
        "head_offset": np.array([c.offset for c in head.calibrators]),
        "head_knots": knots,
        "head_knot_count": np.array([c.knots_x.size for c in head.calibrators], dtype=np.int64),
        "token_low": tokens.low,
        "token_high": tokens.high,
        "token_smear": tokens.smear,
        "token_multiplier": tokens.multiplier,
        "novelty_mean": novelty.mean,
        "novelty_inverse": novelty.inverse,
        "novelty_prototypes": novelty.prototypes,
        "novelty_radii": novelty.radii,
        "novelty_rare": novelty.rare.astype(np.int64),
        "novelty_rare_limit": np.array(novelty.rare_limit),
        "novelty_ramps": np.array([novelty.known, novelty.unknown, novelty.rare_to]),
        **({"seen": weights.seen} if weights.seen.size else {}),
        **_confidence_arrays(weights.confidences),
        **reference_arrays(weights.reference),
        **_meaning_arrays(weights.meaning),
    }


def _confidence_arrays(confidences: Mapping[int, Confidence]) -> dict[str, NDArray[Any]]:
    """One row a model, in the order of the arms; nothing where there are none."""
    if not confidences:
        return {}
    models = [model for _, model in sorted(confidences.items())]
    return {
        "confidence_version": np.array(VERSION, dtype=np.int64),
        "confidence_arms": np.array(sorted(confidences), dtype=np.int64),
        "confidence_weights": np.array([model.weights for model in models]),
        "confidence_centre": np.array([model.centre for model in models]),
        "confidence_inverse": np.array([model.inverse for model in models]),
        "confidence_floor": np.array([model.floor for model in models]),
    }


def _meaning_arrays(meaning: Meaning | None) -> dict[str, NDArray[Any]]:
    """Names as their bytes: arrays hold numbers alone."""
    if meaning is None:
        return {}
    return {
        "meaning_encoder": np.array(list(meaning.encoder.encode()), dtype=np.int64),
        "meaning_digest": np.array(list(bytes.fromhex(meaning.digest)), dtype=np.int64),
        "meaning_mean": meaning.mean,
        "meaning_weights": meaning.weights,
    }


def from_arrays(arrays: Arrays, arms: int) -> Weights:
    """The inverse of `to_arrays`. Raises ArtifactCorrupt, naming the array, for anything out of place."""
    reader = _Reader(arrays)
    kinds = reader.rows("novelty_radii")
    ladders = reader.rows("head_ladders")
    knot_count = reader.whole("head_knot_count", (arms,), MAX_KNOTS)
    knots = reader.real("head_knots", (2, arms, MAX_KNOTS))
    methods = reader.whole("head_method", (arms,), len(METHODS) - 1)
    slope, offset = reader.real("head_slope", (arms,)), reader.real("head_offset", (arms,))
    head = Head(
        calibrators=tuple(
            Calibrator(
                METHODS[int(methods[a])],
                float(slope[a]),
                float(offset[a]),
                knots[0, a, : knot_count[a]],
                knots[1, a, : knot_count[a]],
            )
            for a in range(arms)
        ),
        base=reader.real("head_base", (arms,), 0.0, 1.0),
        trust=reader.real("head_trust", (arms,), 0.0, 1.0),
        floor=reader.real("head_floor", (arms,), 0.0, 0.5),
        distrust=float(reader.real("head_distrust", (), 0.0, 1.0)),
        ladders=tuple(
            tuple(int(i) for i in row if i >= 0)
            for row in reader.whole("head_ladders", (ladders, arms), arms - 1, lowest=-1)
        ),
    )
    token_head = TokenHead(
        low=reader.real("token_low", (arms,)),
        high=reader.real("token_high", (arms,), highest=50.0),
        smear=reader.real("token_smear", (arms,), 0.0),
        multiplier=reader.real("token_multiplier", (arms,), 1.0),
    )
    novelty = Novelty(
        mean=reader.real("novelty_mean", (COUNT,)),
        inverse=reader.real("novelty_inverse", (COUNT,), 0.0),
        prototypes=reader.real("novelty_prototypes", (kinds, COUNT)),
        radii=reader.real("novelty_radii", (kinds,), 1e-9),
        rare=reader.whole("novelty_rare", (WORD_BUCKETS,), 1).astype(np.bool_),
        rare_limit=float(reader.real("novelty_rare_limit", (), 0.0, 1.0)),
        **_ramps(reader, arrays),
    )
    weights = Weights(
        mean=reader.real("mean", (EXPANDED,)),
        inverse=reader.real("inverse", (EXPANDED,), 0.0),
        structural=reader.real("structural", (EXPANDED, 2 * arms)),
        lexical=np.ascontiguousarray(reader.real("lexical", (WIDTH, 2 * arms)), dtype=np.float32),
        intercept=reader.real("intercept", (2 * arms,)),
        typical_tokens=reader.real("typical_tokens", (arms,), 0.0),
        head=head,
        token_head=token_head,
        novelty=novelty,
        confidences=_confidences(reader, arms) if "confidence_version" in arrays else {},
        seen=reader.whole("seen", (reader.rows("seen"),), 2**63 - 1, -(2**63))
        if "seen" in arrays
        else np.empty(0, dtype=np.int64),
        reference=reference_from(reader, arms) if "drift_edges" in arrays else None,
        meaning=_meaning(reader, arms) if "meaning_weights" in arrays else None,
    )
    unknown = sorted(set(arrays) - reader.seen)
    if unknown:
        raise ArtifactCorrupt(f"unknown arrays {', '.join(unknown)}; train the classifier again")
    return weights


def _meaning(reader: _Reader, arms: int) -> Meaning:
    width = reader.rows("meaning_weights")
    name = bytes(reader.whole("meaning_encoder", (reader.rows("meaning_encoder"),), 255).tolist())
    return Meaning(
        encoder=name.decode("utf-8", "replace"),
        digest=bytes(reader.whole("meaning_digest", (32,), 255).tolist()).hex(),
        mean=reader.real("meaning_mean", (width,)),
        weights=reader.real("meaning_weights", (width, arms)),
    )


def _ramps(reader: _Reader, arrays: Arrays) -> dict[str, float]:
    """Artifacts from before ramps were learnt have none."""
    if "novelty_ramps" not in arrays:
        return {}
    known, unknown, rare_to = reader.real("novelty_ramps", (3,), 0.0).tolist()
    if unknown <= known or rare_to <= 0.0:
        raise ArtifactCorrupt("array 'novelty_ramps' does not rise; train the classifier again")
    return {"known": known, "unknown": unknown, "rare_to": rare_to}


def _confidences(reader: _Reader, arms: int) -> dict[int, Confidence]:
    if int(reader.whole("confidence_version", (), 2**31)) != VERSION:
        raise ArtifactIncompatible(f"the confidence model is not of version {VERSION}; train it again")
    count = reader.rows("confidence_arms")
    at = reader.whole("confidence_arms", (count,), arms - 1).tolist()
    if len(set(at)) != count:
        raise ArtifactCorrupt("array 'confidence_arms' names an arm twice; train the classifier again")
    weights = reader.real("confidence_weights", (count, COLUMNS))
    if count and weights[:, 1].min() < 0.0:
        raise ArtifactCorrupt(
            "array 'confidence_weights' falls as the prior rises; train the classifier again"
        )
    centre = reader.real("confidence_centre", (count, 2)).tolist()
    inverse = reader.real("confidence_inverse", (count, 2), 0.0).tolist()
    floor = reader.real("confidence_floor", (count,), 0.0, 0.5).tolist()
    return {
        arm: Confidence(tuple(row), tuple(mid), tuple(scale), least)
        for arm, row, mid, scale, least in zip(at, weights.tolist(), centre, inverse, floor, strict=True)
    }


class _Reader:
    """Takes arrays by name and refuses wrong shapes, kinds and numbers."""

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays
        self.seen: set[str] = set()

    def real(
        self, name: str, shape: tuple[int, ...], lowest: float = -np.inf, highest: float = np.inf
    ) -> NDArray[np.float64]:
        array = self._take(name, shape, "f")
        if not np.all(np.isfinite(array)):
            raise ArtifactCorrupt(f"array {name!r} holds NaN or infinity; train the classifier again")
        return self._within(name, array, lowest, highest).astype(np.float64)

    def whole(self, name: str, shape: tuple[int, ...], highest: int, lowest: int = 0) -> NDArray[np.int64]:
        return self._within(name, self._take(name, shape, "i"), lowest, highest).astype(np.int64)

    def rows(self, name: str) -> int:
        """Length of the first axis, for arrays whose number of rows is their own affair."""
        array = self._named(name)
        if array.ndim == 0:
            raise ArtifactCorrupt(f"array {name!r} has no rows; train the classifier again")
        return int(array.shape[0])

    def _named(self, name: str) -> NDArray[Any]:
        if name not in self._arrays:
            raise ArtifactCorrupt(f"array {name!r} is missing; train the classifier again")
        self.seen.add(name)
        return self._arrays[name]

    def _take(self, name: str, shape: tuple[int, ...], kind: str) -> NDArray[Any]:
        array = self._named(name)
        if array.shape != shape or array.dtype.kind != kind:
            raise ArtifactCorrupt(
                f"array {name!r} has shape {array.shape} and type {array.dtype}, expected {shape}; "
                "train the classifier again"
            )
        return array

    @staticmethod
    def _within(name: str, array: NDArray[Any], lowest: float, highest: float) -> NDArray[Any]:
        if array.size and (array.min() < lowest or array.max() > highest):
            raise ArtifactCorrupt(f"array {name!r} leaves [{lowest}, {highest}]; train the classifier again")
        return array
