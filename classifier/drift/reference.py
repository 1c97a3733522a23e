"""What training looked like, as counts in bins: the yardstick of every later window of traffic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classifier.errors import ArtifactCorrupt
from classifier.features import COUNT, NAMES

Matrix = NDArray[np.float64]
Counts = NDArray[np.int64]

# Nine deciles, the largest value, and one edge below a smallest value that many rows share.
EDGES = 11
BINS = EDGES + 1
_DECILES = np.arange(1, 10) / 10.0
_BELOW = 1e-9
OOD = "ood"
P, TOKENS, RATIO = "p", "tokens", "token ratio"


@dataclass(frozen=True, slots=True)
class Reference:
    """Counts of the training rows in bins of each signal.

    Signals, in order: the structural features by name, `ood`, then of each arm the predicted p, the logarithm
    of the predicted tokens, and the logarithm of what was really spent over that. `edges` (signals, EDGES)
    ascend, padded with infinity; a value falls into the bin that counts the edges below it. `counts`
    (signals, BINS). Predictions come from models that had not seen their prompt: seen prompts look surer.
    """

    edges: Matrix
    counts: Counts

    @classmethod
    def of(cls, signals: Matrix) -> Reference:
        """From (n, signals) values, NaN where one is not known."""
        edges = np.stack([_edges(column[~np.isnan(column)]) for column in signals.T])
        return cls(edges, binned(edges, signals))


def signal_names(arms: Sequence[str]) -> tuple[str, ...]:
    """Names of the signals of a classifier with these arms, in the order of `Reference`."""
    kinds = (P, TOKENS, RATIO)
    return (*NAMES, OOD, *(f"{kind} {arm}" for kind in kinds for arm in arms))


def signal_rows(structural: Matrix, ood: Matrix, p: Matrix, expected: Matrix, spent: Matrix) -> Matrix:
    """(n, COUNT), (n,) and three (n, arms) -> (n, signals); NaN where something is not known.

    `expected` and `spent` are completion tokens; an arm that was not tried has NaN as `spent`.
    """
    logs = np.log(np.maximum(expected, 1.0))
    ratio = np.log(np.maximum(spent, 1.0)) - logs
    return np.hstack([structural, ood[:, None], p, logs, ratio])


def binned(edges: Matrix, signals: Matrix) -> Counts:
    """(signals, BINS) counts of (n, signals) values; NaN is not counted."""
    counts = np.zeros((len(edges), BINS), dtype=np.int64)
    for row, column in enumerate(signals.T):
        known = column[~np.isnan(column)]
        counts[row] = np.bincount(np.searchsorted(edges[row], known, side="left"), minlength=BINS)
    return counts


def reference_arrays(reference: Reference | None) -> dict[str, NDArray[Any]]:
    """What an artifact keeps; nothing without a reference."""
    if reference is None:
        return {}
    # infinity is refused in artifacts: the padding is left out and told by its length
    lengths = np.isfinite(reference.edges).sum(axis=1).astype(np.int64)
    edges = np.where(np.isfinite(reference.edges), reference.edges, 0.0)
    return {"drift_edges": edges, "drift_lengths": lengths, "drift_counts": reference.counts}


def reference_from(arrays: Mapping[str, NDArray[Any]], arms: int) -> Reference | None:
    """The inverse; None where the artifact has none. Raises ArtifactCorrupt for anything out of place."""
    if "drift_edges" not in arrays:
        return None
    signals = COUNT + 1 + 3 * arms
    edges = _taken(arrays, "drift_edges", (signals, EDGES), "f").astype(np.float64)
    lengths = _taken(arrays, "drift_lengths", (signals,), "i").astype(np.int64)
    counts = _taken(arrays, "drift_counts", (signals, BINS), "i").astype(np.int64)
    if lengths.min() < 0 or lengths.max() > EDGES or counts.min() < 0:
        raise ArtifactCorrupt("the drift reference counts below zero; train the classifier again")
    inside = np.arange(EDGES) < lengths[:, None]
    edges = np.where(inside, edges, np.inf)
    if np.any(np.diff(np.where(inside, edges, np.finfo(np.float64).max), axis=1) < 0.0):
        raise ArtifactCorrupt("array 'drift_edges' does not ascend; train the classifier again")
    return Reference(edges, counts)


def _edges(values: Matrix) -> Matrix:
    padded = np.full(EDGES, np.inf)
    if values.size:
        # a quantile between two values would be an edge that no value of a yes-or-no column is near
        deciles = np.quantile(values, _DECILES, method="inverted_cdf")
        lowest = [values.min() - _BELOW] if deciles[0] == values.min() else []
        found = np.unique(np.concatenate([lowest, deciles, [values.max()]]))
        padded[: found.size] = found
    return padded


def _taken(
    arrays: Mapping[str, NDArray[Any]], name: str, shape: tuple[int, ...], kind: str
) -> NDArray[Any]:
    array = arrays.get(name)
    if array is None or array.shape != shape or array.dtype.kind != kind or not np.all(np.isfinite(array)):
        raise ArtifactCorrupt(f"array {name!r} is not what it must be; train the classifier again")
    return array
