"""Where decisions and feedback are kept: two bounded streams, oldest first, that lose their beginning."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from router.decisions.errors import InvalidDecision
from router.decisions.files import from_line, to_line
from router.decisions.record import Decision

PAGE = 200
BEGINNING = "0-0"
Position = str
"""`milliseconds-number`, as Redis names the entries of a stream."""


@dataclass(frozen=True, slots=True)
class Feedback:
    """What its tenant said a decision's answer was worth, in [0, 1]."""

    decision_id: str
    tenant: str
    score: float


@dataclass(frozen=True, slots=True)
class Logged:
    """A decision and where it lies; None where what lies there cannot be read as one."""

    position: Position
    decision: Decision | None


class DecisionLog(Protocol):
    """Every method raises LogUnavailable; then it is unknown whether a write ran, and it may be repeated."""

    async def append(self, decisions: Sequence[Decision]) -> None:
        """Keep them, in this order. A repeat keeps them twice; readers take an id once.

        Raises InvalidDecision, with nothing kept, where one of them has a value that JSON has no word for.
        """
        ...

    async def append_feedback(self, feedback: Feedback) -> None: ...

    async def after(self, position: Position, count: int = PAGE) -> list[Logged]:
        """At most `count` decisions behind a position, oldest first."""
        ...

    async def last(self, count: int) -> list[Logged]:
        """The latest, oldest of them first."""
        ...

    async def length(self) -> int:
        """How many decisions there are."""
        ...

    async def feedback_after(
        self, position: Position, count: int = PAGE
    ) -> list[tuple[Position, Feedback | None]]:
        """As `after`; None for what cannot be read."""
        ...


class MemoryDecisionLog:
    """In this process; both streams keep the newest `max_entries` and `max_feedback`."""

    def __init__(
        self,
        max_entries: int = 10_000,
        max_feedback: int = 10_000,
        clock_ms: Callable[[], int] = lambda: int(time.time() * 1000),
    ) -> None:
        self._decisions: deque[tuple[Position, str]] = deque(maxlen=max_entries)
        self._feedback: deque[tuple[Position, Feedback]] = deque(maxlen=max_feedback)
        self._clock_ms = clock_ms
        self._number = 0

    async def append(self, decisions: Sequence[Decision]) -> None:
        self._decisions += [(self._next(), to_line(decision)) for decision in decisions]

    async def append_feedback(self, feedback: Feedback) -> None:
        self._feedback.append((self._next(), feedback))

    async def after(self, position: Position, count: int = PAGE) -> list[Logged]:
        found = [each for each in self._decisions if order(each[0]) > order(position)]
        return [Logged(at, decoded(text)) for at, text in found[:count]]

    async def last(self, count: int) -> list[Logged]:
        return [Logged(at, decoded(text)) for at, text in list(self._decisions)[-count:]]

    async def length(self) -> int:
        return len(self._decisions)

    async def feedback_after(
        self, position: Position, count: int = PAGE
    ) -> list[tuple[Position, Feedback | None]]:
        found = [each for each in self._feedback if order(each[0]) > order(position)]
        return [(at, feedback) for at, feedback in found[:count]]

    def _next(self) -> Position:
        self._number += 1
        return f"{self._clock_ms()}-{self._number}"


def order(position: Position) -> tuple[int, int]:
    """What positions are compared by."""
    milliseconds, _, number = position.partition("-")
    return int(milliseconds), int(number or 0)


def decoded(text: str | bytes) -> Decision | None:
    try:
        return from_line(text)
    except InvalidDecision:
        return None


async def scores(log: DecisionLog, tenant: str | None = None) -> dict[str, float]:
    """The last feedback of every decision that has any. Raises LogUnavailable."""
    _, found = await feedback_since(log, BEGINNING)
    return {each.decision_id: each.score for each in found if tenant in (None, each.tenant)}


async def feedback_since(log: DecisionLog, position: Position) -> tuple[Position, list[Feedback]]:
    """All that can be read behind a position, and where that ends. Raises LogUnavailable."""
    found: list[Feedback] = []
    while page := await log.feedback_after(position):
        position = page[-1][0]
        found += [feedback for _, feedback in page if feedback is not None]
    return position, found
