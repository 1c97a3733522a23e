"""Small artifacts of made-up weights, each of another version: quick to write and to load."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from classifier.artifact import save
from classifier.features.matrix import feature_matrix
from classifier.model import ArmClassifier
from classifier.packed import Packed, pack
from classifier.tables import OutcomeTable
from tests.unit.test_artifact import some_weights

ARMS = ("direct/direct", "consistency/sc8", "search/beam")


def write_artifact(directory: Path, seed: int = 0, arms: tuple[str, ...] = ARMS, seen: int = 5) -> str:
    """Three arms; `seed` tells them apart, `seen` prompts were trained on. Returns the version."""
    weights = replace(some_weights(seed), seen=np.arange(seen, dtype=np.int64))
    return save(directory, arms, weights, {"date": "2026-01-01", "seed": seed})


def packed(directory: Path, seed: int = 0, arms: tuple[str, ...] = ARMS) -> Packed:
    write_artifact(directory, seed, arms)
    return pack(directory)


def fitted(directory: Path, table: OutcomeTable, share_seen: float = 1.0) -> str:
    """A real if plain classifier of that table, in a second; it says that it saw the first part of it."""
    model = ArmClassifier(arms=table.arms, cs=(0.01,), pulls=(10.0,), lexical_scales=(1.0,), distrust=0.0)
    x = feature_matrix([item.messages for item in table.items])
    weights = model.fit(x, table.scores, table.tokens).export()
    seen = table.fingerprints()[: round(share_seen * len(table.items))]
    return save(directory, table.arms, replace(weights, seen=np.unique(seen)), {"date": "2026-02-02"})
