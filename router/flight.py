"""Identical requests in flight share one run."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """One leader a key; the others wait for what it lands. For one event loop.

    A waiter that leaves harms nobody. A leader that fails, is cancelled or lands nothing promotes exactly
    one waiter, which then runs for itself and for the rest.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, deque[asyncio.Future[T | None]]] = {}

    def __len__(self) -> int:
        """Keys in flight."""
        return len(self._waiting)

    def join(self, key: str, waiting: Callable[[], None] | None = None) -> Seat[T]:
        """`async with flights.join(key) as seat:` lead or share; see Seat.

        `waiting` is called if there is somebody to wait for.
        """
        return Seat(self._waiting, key, waiting)

    async def run(self, key: str, work: Callable[[], Awaitable[T]]) -> tuple[T, bool]:
        """The result of `work()`, and whether this call ran it. Raises what its own `work()` raises."""
        async with self.join(key) as seat:
            if not seat.leads:
                return seat.value, False
            value = await work()
            seat.land(value)
            return value, True


class Seat(Generic[T]):
    """One request's place in a flight, for `async with`.

    Entering waits until there is something to do: either `leads` is true, and then `land` what the others
    may have before leaving; or `value` is what the leader landed.
    """

    __slots__ = ("_key", "_landed", "_tell", "_waiting", "leads")

    def __init__(
        self,
        waiting: dict[str, deque[asyncio.Future[T | None]]],
        key: str,
        tell: Callable[[], None] | None = None,
    ) -> None:
        self._waiting = waiting
        self._key = key
        self._tell = tell
        self._landed: T | None = None
        self.leads = False

    @property
    def value(self) -> T:
        if self._landed is None:
            raise RuntimeError("this seat leads: run the work and land its result")
        return self._landed

    def land(self, value: T) -> None:
        """Give every waiter the result (never None), now; the flight is over."""
        if not self.leads:
            raise RuntimeError("only the leader lands")
        self.leads = False
        self._landed = value
        for turn in self._waiting.pop(self._key):
            if not turn.done():
                turn.set_result(value)

    async def __aenter__(self) -> Seat[T]:
        queue = self._waiting.get(self._key)
        if queue is None:
            self._waiting[self._key] = deque()
            self.leads = True
            return self
        turn: asyncio.Future[T | None] = asyncio.get_running_loop().create_future()
        queue.append(turn)
        if self._tell is not None:
            self._tell()
        try:
            self._landed = await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result() is None:
                # Promoted in the very moment of leaving: the turn goes on to the next.
                self._promote()
            elif turn in queue:
                queue.remove(turn)
            raise
        self.leads = self._landed is None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.leads:
            self.leads = False
            self._promote()

    def _promote(self) -> None:
        """Wake the first who still waits; without one the flight is over."""
        queue = self._waiting[self._key]
        while queue:
            turn = queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        del self._waiting[self._key]
