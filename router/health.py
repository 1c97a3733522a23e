"""How the tiers are, as one replica of the router has seen them: down, overloaded, slow, or well.

It learns from every call that passes through `WatchedTiers`, asks nobody, and forgets what is old. The
planner gets plain `TierState`s.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass

from backends.errors import BackendError, ContextOverflow, EngineError
from backends.task import TierEvent, TierResult, TierTask
from policies.conditions import TierState
from router.errors import Overloaded, TierUnavailable
from router.tiers import TierClient

log = logging.getLogger(__name__)

FAILURES = 2  # in a row: one replica may die while the others are well
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
PROBE_S = 5.0  # so long nobody else tries a tier that one request is trying again
REMEMBERED_S = 60.0
SMOOTHING = 0.2
FEWEST_RUNS = 3  # before a speed is believed


@dataclass(slots=True)
class _Tier:
    in_flight: int = 0
    failures: int = 0
    pause_s: float = FIRST_PAUSE_S
    paused_until_s: float | None = None  # None: well
    problem: str = ""
    probed_until_s: float = 0.0
    runs: int = 0
    seen_s: float = 0.0
    run_s: float = 0.0
    token_s: float = 0.0


class HealthBoard:
    """`capacities` is how many runs a tier takes at the same time, all its replicas together."""

    def __init__(
        self,
        capacities: Mapping[str, int] | None = None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._capacities = capacities or {}
        self._now_s = now_s
        self._tiers: dict[str, _Tier] = {}

    def states(self, tiers: Iterable[str], *, probing: bool = True) -> dict[str, TierState]:
        """How the tiers are now.

        A tier whose pause is over is offered to one asker at a time, who tries it again; not `probing` only
        looks.
        """
        return {tier: self._state(tier, probing) for tier in tiers}

    def begin(self, tier: str) -> None:
        """A run is on its way; one of `answered`, `failed` and `left` follows."""
        self._of(tier).in_flight += 1

    def answered(self, tier: str, *, run_s: float = 0.0, tokens: int = 0) -> None:
        """It answered, if only that it cannot; a run of `tokens` completion tokens took `run_s`."""
        known = self._end(tier)
        if known.paused_until_s is not None:
            log.info("the tier %s answers again", tier)
        known.failures, known.pause_s, known.paused_until_s, known.probed_until_s = (
            0,
            FIRST_PAUSE_S,
            None,
            0.0,
        )
        if tokens <= 0:
            return
        now = self._now_s()
        if now - known.seen_s > REMEMBERED_S:
            known.runs = 0
        weight = SMOOTHING if known.runs >= FEWEST_RUNS else 1.0 / (known.runs + 1)
        known.run_s += weight * (run_s - known.run_s)
        # As if all samples had been drawn one after another: no arm may look slower than it is.
        known.token_s += weight * (run_s / tokens - known.token_s)
        known.runs, known.seen_s = known.runs + 1, now

    def failed(self, tier: str) -> None:
        """It is gone, or its engine fails."""
        known = self._end(tier)
        known.failures += 1
        if known.failures >= FAILURES or known.paused_until_s is not None:
            self._pause(tier, known, f"failed {known.failures} times in a row", known.pause_s)

    def overloaded(self, tier: str, retry_after_s: float | None = None) -> None:
        """It has no room."""
        known = self._end(tier)
        self._pause(tier, known, "is overloaded", max(known.pause_s, retry_after_s or 0.0))

    def left(self, tier: str) -> None:
        """The caller left, or the run ended in a way that says nothing about the tier."""
        self._end(tier)

    # -- the rules

    def _of(self, tier: str) -> _Tier:
        return self._tiers.setdefault(tier, _Tier())

    def _end(self, tier: str) -> _Tier:
        known = self._of(tier)
        known.in_flight = max(0, known.in_flight - 1)
        return known

    def _pause(self, tier: str, known: _Tier, problem: str, pause_s: float) -> None:
        if known.paused_until_s is None:
            log.warning("the tier %s %s and is skipped for a while", tier, problem)
        pause_s = min(pause_s, LONGEST_PAUSE_S)
        # Requests that were on their way together fail together: that is one pause and not many.
        if known.paused_until_s is None or known.paused_until_s <= self._now_s():
            known.paused_until_s = self._now_s() + pause_s
            known.pause_s = min(2.0 * known.pause_s, LONGEST_PAUSE_S)
        known.problem, known.probed_until_s = problem, 0.0

    def _state(self, tier: str, probing: bool) -> TierState:
        known, now = self._of(tier), self._now_s()
        queue_s = 0.0
        capacity = self._capacities.get(tier)
        fresh = now - known.seen_s <= REMEMBERED_S and known.runs > 0
        if capacity and fresh:
            queue_s = max(0, known.in_flight - capacity) / capacity * known.run_s
        speed = known.token_s if fresh and known.runs >= FEWEST_RUNS else None
        return TierState(self._skipped(known, now, probing), queue_s, speed)

    def _skipped(self, known: _Tier, now: float, probing: bool) -> str:
        if known.paused_until_s is None:
            return ""
        if known.paused_until_s > now:
            return f"{known.problem}; it is tried again in {known.paused_until_s - now:.1f} s"
        if known.probed_until_s > now:
            return f"{known.problem}; another request is trying it again"
        if probing:
            known.probed_until_s = now + PROBE_S
        return ""


class WatchedTiers:
    """The tiers, with a board that learns from what becomes of every call (`router.tiers.TierClient`)."""

    def __init__(
        self, tiers: TierClient, board: HealthBoard, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._tiers = tiers
        self._board = board
        self._now_s = now_s

    @property
    def names(self) -> tuple[str, ...]:
        return self._tiers.names

    async def healthy(self, tier: str) -> bool:
        return await self._tiers.healthy(tier)

    async def run(self, tier: str, task: TierTask) -> TierResult:
        watch = _Watch(self._board, tier, self._now_s)
        with watch:
            result = await self._tiers.run(tier, task)
            watch.result = result
        return result

    async def stream(self, tier: str, task: TierTask) -> AsyncGenerator[TierEvent, None]:
        watch = _Watch(self._board, tier, self._now_s)
        with watch:
            async with aclosing(self._tiers.stream(tier, task)) as events:
                async for event in events:
                    if isinstance(event, TierResult):
                        watch.result = event
                    yield event


class _Watch:
    """One call, from its beginning to whatever ends it."""

    def __init__(self, board: HealthBoard, tier: str, now_s: Callable[[], float]) -> None:
        self._board = board
        self._tier = tier
        self._now_s = now_s
        self.result: TierResult | None = None

    def __enter__(self) -> None:
        self._began_s = self._now_s()
        self._board.begin(self._tier)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self.result is not None:
            run_s = self._now_s() - self._began_s
            self._board.answered(self._tier, run_s=run_s, tokens=self.result.spend.completion)
        elif isinstance(error, Overloaded):
            self._board.overloaded(self._tier, error.retry_after_s)
        elif isinstance(error, TierUnavailable) or _is_fault(error):
            self._board.failed(self._tier)
        elif isinstance(error, BackendError):
            self._board.answered(self._tier)
        else:
            self._board.left(self._tier)


def _is_fault(error: BaseException | None) -> bool:
    return isinstance(error, EngineError) and not isinstance(error, ContextOverflow)
