"""Steps of the sizes, and steps crossed with the kind of sum: what a linear model cannot bend by itself."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from classifier.features.structural import COUNT, INDEX, NAMES

# (column, values above which a step switches on). One digit or two is what decides for small models.
_STEPS: tuple[tuple[str, tuple[float, ...]], ...] = (
    ("max_digits", (0, 1, 2, 3, 4, 6)),
    ("second_digits", (0, 1, 2, 3, 4)),
    ("chain_digits", (0, 1, 2, 3, 4)),
    ("chain_min_digits", (1, 2, 3)),
    ("terms", (0, 2, 3, 4, 5, 7)),
    ("numbers", tuple(math.log1p(count) for count in (0.5, 1.5, 2.5, 3.5, 4.5, 6.5, 9.5))),
    ("words", tuple(math.log1p(count) for count in (6, 12, 25, 50, 75, 100, 200, 400))),
    ("longest_word", (4, 6, 8, 10, 12)),
    ("last_word", (3, 4, 5, 6, 8, 10)),
    ("longest_quoted", tuple(math.log1p(count) for count in (3, 5, 8, 12))),
    ("sentences", tuple(math.log1p(count) for count in (0.5, 1.5, 2.5, 3.5, 5.5))),
)
_CROSSED = ("max_digits", "chain_digits", "terms", "numbers")
_KINDS = ("kind_sum", "kind_product", "kind_other")

_COLUMN = np.array([INDEX[name] for name, edges in _STEPS for _ in edges], dtype=np.intp)
_EDGE = np.array([edge for _, edges in _STEPS for edge in edges], dtype=np.float64)
_STEP_NAMES = tuple(f"{name}>{edge:.3g}" for name, edges in _STEPS for edge in edges)
_CROSSED_STEPS = np.array(
    [i for i, column in enumerate(_COLUMN) if NAMES[int(column)] in _CROSSED], dtype=np.intp
)
_KIND_COLUMNS = np.array([INDEX[name] for name in _KINDS], dtype=np.intp)

EXPANDED_NAMES: tuple[str, ...] = (
    *NAMES,
    *_STEP_NAMES,
    *(f"{kind}&{_STEP_NAMES[int(step)]}" for kind in _KINDS for step in _CROSSED_STEPS),
)
EXPANDED = len(EXPANDED_NAMES)


def expand(structural: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, COUNT) named columns -> (n, EXPANDED): the columns, their steps, steps within each kind."""
    if structural.ndim != 2 or structural.shape[1] != COUNT:
        raise ValueError(f"expected (n, {COUNT}) structural features, got {structural.shape}")
    steps = (structural[:, _COLUMN] > _EDGE).astype(np.float64)
    kinds = structural[:, _KIND_COLUMNS]
    crossed = kinds[:, :, None] * steps[:, None, _CROSSED_STEPS]
    return np.concatenate([structural, steps, crossed.reshape(len(structural), -1)], axis=1)
