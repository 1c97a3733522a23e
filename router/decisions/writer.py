"""Decisions on their way to the log: a bounded queue, off the path of requests.

A store that is away or slow costs no request anything: what does not fit into the queue is dropped and
counted. One line is logged when trouble begins and one when it ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextvars import Context
from dataclasses import dataclass

from router.decisions.errors import InvalidDecision, LogUnavailable
from router.decisions.files import to_line
from router.decisions.log import DecisionLog
from router.decisions.record import Decision
from router.drift.gauges import DROPPED, LOGGED, Gauges

log = logging.getLogger(__name__)

BATCH = 32  # made into JSON in one go: about a millisecond
GATHER_S = 0.05
REST_S = 1.0
CLOSE_S = 2.0


@dataclass(slots=True)
class WriterCounts:
    """Since the start."""

    written: int = 0
    dropped: int = 0


class DecisionWriter:
    """For one event loop. `log` is where they go; `max_waiting` decisions wait at most.

    Decisions that wait are kept through trouble while they fit; newer ones are dropped where they do not.
    `max_prompt_bytes` bounds the text of one decision, for whoever makes them. `gauges` are told what was
    written and dropped.
    """

    def __init__(
        self,
        decisions: DecisionLog,
        *,
        max_waiting: int = 2_000,
        max_prompt_bytes: int = 4_096,
        gather_s: float = GATHER_S,
        rest_s: float = REST_S,
        gauges: Gauges | None = None,
    ) -> None:
        self.log = decisions
        self.max_prompt_bytes = max_prompt_bytes
        self.counts = WriterCounts()
        self._gauges = gauges
        self._max_waiting = max_waiting
        self._gather_s = gather_s
        self._rest_s = rest_s
        self._waiting: deque[Decision] = deque()
        self._task: asyncio.Task[None] | None = None
        self._trouble = False
        self._dropped_before = 0
        self._closing = asyncio.Event()

    def add(self, decision: Decision) -> None:
        """Have it written soon, or drop it where too many wait. Never raises, never waits."""
        if self._closing.is_set() or len(self._waiting) >= self._max_waiting:
            self._dropped(1)
            self._told(True, "it is too slow")
            return
        self._waiting.append(decision)
        if self._task is None or self._task.done():
            # A context of its own: it outlives the request that happens to start it.
            self._task = asyncio.create_task(self._write(), context=Context())

    async def aclose(self, within_s: float = CLOSE_S) -> None:
        """Write what waits, for so long; the rest is dropped and counted."""
        self._closing.set()
        task = self._task
        if task is not None and not task.done():
            await asyncio.wait({task}, timeout=within_s)
            task.cancel()
            await asyncio.wait({task})
        if self._waiting:
            self._dropped(len(self._waiting))
            log.warning("%d decisions were not logged before the end", len(self._waiting))
            self._waiting.clear()

    async def _write(self) -> None:
        """Until nothing waits. A batch that is not full gathers for a moment: each costs a round trip."""
        while self._waiting:
            if len(self._waiting) < BATCH:
                await self._pause(self._gather_s)
            batch = [self._waiting[i] for i in range(min(BATCH, len(self._waiting)))]
            try:
                await self.log.append(batch)
            except InvalidDecision as error:
                self._leave_out(batch, error)
                continue
            except LogUnavailable as error:
                self._told(True, str(error))
                if self._closing.is_set():
                    return
                await self._pause(self._rest_s)
                continue
            for _ in batch:
                self._waiting.popleft()
            self.counts.written += len(batch)
            if self._gauges is not None:
                self._gauges.add(LOGGED, len(batch))
            self._told(False)

    def _leave_out(self, batch: list[Decision], error: InvalidDecision) -> None:
        """Whatever of a batch cannot be written at all, so that it does not hold up the rest."""
        log.error("a decision cannot be logged and is dropped: %s", error)
        for _ in batch:
            self._waiting.popleft()
        kept = [decision for decision in batch if _writable(decision)]
        self._dropped(len(batch) - len(kept))
        self._waiting.extendleft(reversed(kept))

    async def _pause(self, seconds: float) -> None:
        """Shorter where it is the end."""
        try:
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        except TimeoutError:
            return

    def _dropped(self, count: int) -> None:
        self.counts.dropped += count
        if self._gauges is not None:
            self._gauges.add(DROPPED, count)

    def _told(self, trouble: bool, why: str = "") -> None:
        if trouble == self._trouble:
            return
        self._trouble = trouble
        if trouble:
            self._dropped_before = self.counts.dropped - (why == "it is too slow")
            log.warning("decisions cannot be logged now (%s); requests go on without", why)
        else:
            lost = self.counts.dropped - self._dropped_before
            log.warning("decisions are logged again; %d were dropped meanwhile", lost)


def _writable(decision: Decision) -> bool:
    try:
        to_line(decision)
    except InvalidDecision:
        return False
    return True
