"""What a store could not be told, told once it listens again: settlements, releases, slots given back."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count

from policies.errors import LedgerError, StoreUnavailable

log = logging.getLogger(__name__)

Operation = Callable[[], Awaitable[object]]

TOGETHER = 16
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 1.0
AT_MOST = 100_000


@dataclass(frozen=True, slots=True)
class _Owed:
    what: str
    operation: Operation


class Later:
    """Operations that may be repeated by id, tried until the store takes them. For one event loop.

    Nobody waits for them. One that fails with another error than StoreUnavailable has been answered: it is
    not tried again. Beyond `at_most` the oldest is given up with a line in the log: its lease expires into
    its checkpoint.
    """

    def __init__(self, at_most: int = AT_MOST, clock: Callable[[], float] = time.monotonic) -> None:
        self._at_most = at_most
        self._clock = clock
        self._owed: deque[_Owed] = deque()
        self._not_yet: list[tuple[float, int, _Owed]] = []  # a heap by time
        self._numbers = count()
        self._trying = 0
        self._work: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """Operations that the store has not taken yet."""
        return len(self._owed) + len(self._not_yet) + self._trying

    def put(self, what: str, operation: Operation, *, wait_s: float = 0.0) -> None:
        """Try `operation` soon, at the earliest after `wait_s`; `what` names it in the log."""
        if wait_s > 0:
            heappush(self._not_yet, (self._clock() + wait_s, next(self._numbers), _Owed(what, operation)))
        else:
            self._keep(_Owed(what, operation))
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._try_all())

    async def aclose(self, timeout_s: float = 5.0) -> None:
        """Wait a while for what is owed, then say how much is given up."""
        if self._work is not None and not self._work.done():
            await asyncio.wait({self._work}, timeout=timeout_s)
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)
        if len(self):
            log.error("%d operations were never told to the store; their leases will expire", len(self))

    async def _try_all(self) -> None:
        pause_s = FIRST_PAUSE_S
        while self._owed or self._not_yet:
            while self._not_yet and self._not_yet[0][0] <= self._clock():
                self._keep(heappop(self._not_yet)[2])
            if not self._owed:
                await asyncio.sleep(min(LONGEST_PAUSE_S, self._not_yet[0][0] - self._clock()))
                continue
            due = [self._owed.popleft() for _ in range(min(TOGETHER, len(self._owed)))]
            self._trying = len(due)
            try:
                taken = await asyncio.gather(*(self._try(owed) for owed in due))
            except asyncio.CancelledError:
                self._owed.extendleft(reversed(due))
                raise
            finally:
                self._trying = 0
            for owed, gone in zip(due, taken, strict=True):
                if not gone:  # to the end: what can be told must not wait behind what cannot
                    self._keep(owed)
            if any(taken):
                pause_s = FIRST_PAUSE_S
            else:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _try(self, owed: _Owed) -> bool:
        """Did the store take it, or answer that there is nothing to take?"""
        try:
            await owed.operation()
        except StoreUnavailable:
            return False
        except LedgerError as error:
            log.debug("%s: %s", owed.what, error)
        except Exception:
            log.exception("%s failed and is given up", owed.what)
        return True

    def _keep(self, owed: _Owed) -> None:
        self._owed.append(owed)
        if len(self._owed) > self._at_most:
            lost = self._owed.popleft()
            log.error("too much waits for the store; given up: %s", lost.what)
