"""Decisions as they come, added up in the bins of a reference: what a window of any size takes is bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from classifier.drift.look import Window
from classifier.drift.reference import BINS, Reference, binned, signal_rows
from classifier.features import COUNT

Vector = NDArray[np.float64]

_PENDING = 64


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


class Tally:
    """Adds decisions up; the newest `most` outcomes an arm are kept, None keeps all."""

    def __init__(self, reference: Reference, arms: tuple[str, ...], most: int | None = None) -> None:
        self._reference = reference
        self._arms = arms
        self._most = most
        self._rows = 0
        self._counts = np.zeros((len(reference.edges), BINS), dtype=np.int64)
        self._pending: list[Seen] = []
        self._labelled: dict[str, deque[tuple[float, float]]] = {}
        self._spent: dict[str, deque[tuple[float, float, float]]] = {}

    @property
    def rows(self) -> int:
        return self._rows

    def add(self, seen: Seen) -> None:
        """A microsecond or two; every 64th call bins those before it."""
        self._rows += 1
        self._pending.append(seen)
        if len(self._pending) >= _PENDING:
            self._bin()
        told = None if seen.arm is None else seen.arms.get(seen.arm)
        if told is None or seen.arm is None:
            return
        if seen.reward is not None:
            self.label(seen.arm, told[0], seen.reward)
        if seen.tokens is not None:
            kept = self._spent.setdefault(seen.arm, deque(maxlen=self._most))
            kept.append((told[1], told[2], float(seen.tokens)))

    def label(self, arm: str, p: float, reward: float) -> None:
        """An outcome that came to be known, perhaps later than its decision."""
        self._labelled.setdefault(arm, deque(maxlen=self._most)).append((p, reward))

    def window(self) -> Window:
        """What was added so far."""
        self._bin()
        return Window(
            rows=self._rows,
            counts=self._counts.copy(),
            labelled={arm: _pairs(rows) for arm, rows in self._labelled.items() if arm in self._arms},
            spent={arm: _triples(rows) for arm, rows in self._spent.items() if arm in self._arms},
        )

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
