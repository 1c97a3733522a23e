"""Small artifacts of made-up weights, each of another version: quick to write and to load."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from classifier.artifact import save
from classifier.packed import Packed, pack
from tests.unit.test_artifact import some_weights

ARMS = ("direct/direct", "consistency/sc8", "search/beam")


def write_artifact(directory: Path, seed: int = 0, arms: tuple[str, ...] = ARMS, seen: int = 5) -> str:
    """Three arms; `seed` tells them apart, `seen` prompts were trained on. Returns the version."""
    weights = replace(some_weights(seed), seen=np.arange(seen, dtype=np.int64))
    return save(directory, arms, weights, {"date": "2026-01-01", "seed": seed})


def packed(directory: Path, seed: int = 0, arms: tuple[str, ...] = ARMS) -> Packed:
    write_artifact(directory, seed, arms)
    return pack(directory)
