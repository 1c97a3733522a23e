"""What training looked like, as counts in bins: the yardstick of every later window of traffic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

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
# Spent over predicted: lengths that hardly vary would have edges where a change by a token is a landslide.
_RATIO_EDGES = np.full(EDGES, np.inf)
_RATIO_EDGES[:8] = np.log([0.25, 0.4, 0.625, 0.8, 1.25, 1.6, 2.5, 4.0])
OOD = "ood"
P, TOKENS, RATIO = "p", "tokens", "token ratio"


class Reader(Protocol):
    """Takes arrays by name and refuses wrong shapes, kinds and numbers with ArtifactCorrupt."""

    def real(self, name: str, shape: tuple[int, ...]) -> Matrix: ...
    def whole(self, name: str, shape: tuple[int, ...], highest: int) -> Counts: ...


@dataclass(frozen=True, slots=True)
class Reference:
    """Counts of the training rows in bins of each signal.

    Signals, in order: the structural features by name, `ood`, then of each arm the predicted p, the logarithm
    of the predicted tokens, and the logarithm of what was really spent over that. `edges` (signals, EDGES)
    are quantiles, but fixed for spent over predicted, and end in infinity; a value falls into the bin that
    counts the edges below it. `counts` (signals, BINS).
    """

    edges: Matrix
    counts: Counts

    @classmethod
    def of(cls, signals: Matrix, arms: int) -> Reference:
        """From (n, signals) values of a classifier with so many arms, NaN where one is not known."""
        own = [_edges(column[~np.isnan(column)]) for column in signals.T[: COUNT + 1 + 2 * arms]]
        edges = np.stack([*own, *([_RATIO_EDGES] * arms)])
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
    count = len(edges)
    at = (signals[:, :, None] > edges).sum(axis=2) + BINS * np.arange(count)
    flat: Counts = np.bincount(at[~np.isnan(signals)], minlength=BINS * count)
    return flat.reshape(count, BINS).astype(np.int64)


def reference_arrays(reference: Reference | None) -> dict[str, NDArray[Any]]:
    """What an artifact keeps; nothing without a reference."""
    if reference is None:
        return {}
    # infinity is refused in artifacts: the padding is left out and told by its length
    lengths = np.isfinite(reference.edges).sum(axis=1).astype(np.int64)
    edges = np.where(np.isfinite(reference.edges), reference.edges, 0.0)
    return {"drift_edges": edges, "drift_lengths": lengths, "drift_counts": reference.counts}


def reference_from(reader: Reader, arms: int) -> Reference:
    """The inverse, for an artifact that has one. Raises ArtifactCorrupt for anything out of place."""
    signals = COUNT + 1 + 3 * arms
    edges = reader.real("drift_edges", (signals, EDGES))
    lengths = reader.whole("drift_lengths", (signals,), EDGES)
    counts = reader.whole("drift_counts", (signals, BINS), 2**40)
    inside = np.arange(EDGES) < lengths[:, None]
    if np.any(np.diff(np.where(inside, edges, np.finfo(np.float64).max), axis=1) < 0.0):
        raise ArtifactCorrupt("array 'drift_edges' does not ascend; train the classifier again")
    return Reference(np.where(inside, edges, np.inf), counts)


def _edges(values: Matrix) -> Matrix:
    padded = np.full(EDGES, np.inf)
    if values.size:
        # a quantile between two values would be an edge that no value of a yes-or-no column is near
        deciles = np.quantile(values, _DECILES, method="inverted_cdf")
        lowest = [values.min() - _BELOW] if deciles[0] == values.min() else []
        found = np.unique(np.concatenate([lowest, deciles, [values.max()]]))
        padded[: found.size] = found
    return padded
