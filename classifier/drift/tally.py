"""Decisions as they come, added up in the bins of a reference: what a window of any size takes is bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from classifier.drift.look import Window
from classifier.drift.reference import BINS, Counts, Reference, binned, signal_rows
from classifier.features import COUNT

Vector = NDArray[np.float64]

_PENDING = 16


@dataclass(frozen=True, slots=True)
class Seen:
    """One decision: what was predicted of each arm (p, expected tokens, their 95 % quantile), and what came.

    `structural` has COUNT features. `arm` was tried first; `reward` in [0, 1] is what its answer was worth,
    `tokens` the completion tokens it took; None where not known.
    """

    structural: Sequence[float]
    ood: float
    arms: Mapping[str, tuple[float, float, float]]
    arm: str | None = None
    reward: float | None = None
    tokens: int | None = None


class Outcomes:
    """What came of decisions, by arm; the newest `most` an arm are kept, None keeps all."""

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self._labelled: dict[str, deque[tuple[float, float]]] = {}
        self._spent: dict[str, deque[tuple[float, float, float]]] = {}

    def label(self, arm: str, p: float, reward: float) -> None:
        """An outcome, known at once or later than its decision."""
        self._labelled.setdefault(arm, deque(maxlen=self._most)).append((p, reward))

    def spend(self, arm: str, expected: float, high: float, spent: float) -> None:
        """Completion tokens."""
        self._spent.setdefault(arm, deque(maxlen=self._most)).append((expected, high, spent))

    def labelled(self) -> dict[str, tuple[Vector, Vector]]:
        """p and reward, as `Window` has them."""
        return {arm: _pairs(rows) for arm, rows in self._labelled.items()}

    def spent(self) -> dict[str, tuple[Vector, Vector, Vector]]:
        """Expected tokens, their 95 % quantile and what was spent, as `Window` has them."""
        return {arm: _triples(rows) for arm, rows in self._spent.items()}


class Tally:
    """Adds decisions up; `outcomes` may be shared with other tallies."""

    def __init__(self, reference: Reference, arms: tuple[str, ...], outcomes: Outcomes | None = None) -> None:
        self._reference = reference
        self._arms = arms
        self._outcomes = Outcomes() if outcomes is None else outcomes
        self._rows = 0
        self._counts = np.zeros((len(reference.edges), BINS), dtype=np.int64)
        self._pending: list[Seen] = []

    @property
    def rows(self) -> int:
        return self._rows

    def add(self, seen: Seen) -> None:
        """A microsecond or two; every 16th call bins those before it."""
        self._rows += 1
        self._pending.append(seen)
        if len(self._pending) >= _PENDING:
            self._bin()
        if seen.arm is None or seen.arm not in self._arms or seen.arm not in seen.arms:
            return
        p, expected, high = seen.arms[seen.arm]
        if seen.reward is not None:
            self._outcomes.label(seen.arm, p, seen.reward)
        if seen.tokens is not None:
            self._outcomes.spend(seen.arm, expected, high, float(seen.tokens))

    def counts(self) -> Counts:
        """(signals, BINS) of what was added so far."""
        self._bin()
        return self._counts.copy()

    def window(self) -> Window:
        """What was added so far."""
        return Window(self._rows, self.counts(), self._outcomes.labelled(), self._outcomes.spent())

    def _bin(self) -> None:
        if not self._pending:
            return
        waiting, self._pending = self._pending, []
        unknown = (np.nan, np.nan, np.nan)
        told = np.array([[seen.arms.get(arm, unknown) for arm in self._arms] for seen in waiting])
        spent = np.full(told.shape[:2], np.nan)
        for row, seen in enumerate(waiting):
            if seen.tokens is not None and seen.arm in self._arms:
                spent[row, self._arms.index(seen.arm)] = seen.tokens
        structural = np.array([seen.structural for seen in waiting]).reshape(-1, COUNT)
        ood = np.array([seen.ood for seen in waiting])
        rows = signal_rows(structural, ood, told[:, :, 0], told[:, :, 1], spent)
        self._counts += binned(self._reference.edges, rows)


def _pairs(rows: Iterable[tuple[float, float]]) -> tuple[Vector, Vector]:
    p, reward = np.array(list(rows)).T
    return p, reward


def _triples(rows: Iterable[tuple[float, float, float]]) -> tuple[Vector, Vector, Vector]:
    expected, high, spent = np.array(list(rows)).T
    return expected, high, spent
