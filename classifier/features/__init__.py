"""Features of a conversation: named structural columns and hashed words."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from classifier.features.lexical import WIDTH, lexical
from classifier.features.structural import COUNT, NAMES, structural
from classifier.features.text import view

# Raise it with every change of a column: saved weights are refused under another one.
FEATURE_VERSION = 3

__all__ = ["COUNT", "FEATURE_VERSION", "NAMES", "WIDTH", "Features", "extract"]


@dataclass(frozen=True, slots=True)
class Features:
    """`structural` (COUNT,), and the non-zero lexical columns: `buckets` (k,) ascending, `values` (k,)."""

    structural: NDArray[np.float64]
    buckets: NDArray[np.intp]
    values: NDArray[np.float64]

    def digest(self) -> str:
        """16 hex digits, equal for equal features: no text can be read from it, only a guess be checked."""
        whole = hashlib.sha256(self.structural.tobytes())
        whole.update(self.buckets.astype("<i8").tobytes())
        whole.update(self.values.tobytes())
        return whole.hexdigest()[:16]


def extract(messages: Sequence[Mapping[str, str]]) -> Features:
    """Features of one conversation; deterministic, and bounded whatever its size (see `text.MAX_CHARS`)."""
    seen = view(messages)
    buckets, values = lexical(seen.spoken, seen.sentences)
    return Features(structural(seen), buckets, values)
