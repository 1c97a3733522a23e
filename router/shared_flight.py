"""Identical requests in flight on different replicas share one run.

The first replica takes a short lease on the request's key and keeps it while it runs; the others look for the
answer every now and then, and try for the lease. So a leader that ends without an answer to share, or dies,
promotes exactly one of them: whoever gets the lease next. Nothing here ever fails a request: without the
store, or with a leader that takes too long, a request runs alone.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from router.background import Background
from router.cache_store import CacheStoreDown
from router.leases import Leases

Look = Callable[[], Awaitable[bytes | None]]


@dataclass(frozen=True, slots=True)
class Rhythm:
    """A leader that is killed is succeeded within `lease_s`; it has three chances to renew in that time.

    Waiters look every `first_look_s` at first and every `look_s` in the end, each replica once for all of its
    requests. A waiter whose store has been silent for `silence_s` stops waiting.
    """

    lease_s: float = 3.0
    first_look_s: float = 0.01
    look_s: float = 0.1
    silence_s: float = 3.0


class SharedFlights:
    """Flights across replicas, by leases. For one event loop."""

    def __init__(self, leases: Leases, rhythm: Rhythm = Rhythm()) -> None:  # frozen
        self._leases = leases
        self._rhythm = rhythm
        self._background = Background()

    def join(self, key: str, look: Look, waiting: Callable[[], None]) -> SharedSeat:
        """`async with flights.join(...) as seat:` lead or share; see SharedSeat.

        `look` reads the answer that a leader has landed, None while there is none; it must not raise.
        `waiting` is called once if there is somebody to wait for.
        """
        return SharedSeat(self._leases, self._rhythm, self._background, key, look, waiting)

    async def aclose(self) -> None:
        await self._background.aclose()


class SharedSeat:
    """One replica's place in a flight. Entering waits until `value` is the answer of another replica's run,
    or None: then run, and `land` what the others may have.

    Bound the entering with a timeout: a waiter that is cancelled harms nobody.
    """

    def __init__(
        self,
        leases: Leases,
        rhythm: Rhythm,
        background: Background,
        key: str,
        look: Look,
        waiting: Callable[[], None],
    ) -> None:
        self._leases = leases
        self._rhythm = rhythm
        self._background = background
        self._key = key
        self._look = look
        self._waiting = waiting
        self._token = secrets.token_hex(16)
        self._holds = False
        self._renewal: asyncio.TimerHandle | None = None
        self.value: bytes | None = None

    def land(self, put: Coroutine[Any, Any, None]) -> None:
        """Have `put` make the answer visible to everyone's `look`, and end the flight after that.

        Both happen in the background: the leader's own caller need not wait for them.
        """
        holds, self._holds = self._holds, False
        self._background.spawn(self._landed(put, holds))

    async def __aenter__(self) -> SharedSeat:
        loop = asyncio.get_running_loop()
        pause_s, heard_at = self._rhythm.first_look_s, loop.time()
        waits = False
        while True:
            try:
                taken, self.value = await self._try()
                heard_at = loop.time()
                if taken or self.value is not None:
                    return self
            except CacheStoreDown:
                if not waits or loop.time() - heard_at > self._rhythm.silence_s:
                    return self
            if not waits:
                waits = True
                self._waiting()
            # Uneven, so that replicas that began together do not ask together for ever.
            await asyncio.sleep(pause_s * random.uniform(0.75, 1.25))
            pause_s = min(pause_s * 1.5, self._rhythm.look_s)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._holds:
            self._holds = False
            self._background.spawn(self._end())

    async def _try(self) -> tuple[bool, bytes | None]:
        """Try for the lease, and look. In this order: an answer is there before its flight ends, so whoever
        gets the lease after that also sees the answer.
        """
        try:
            taken = await self._leases.take(self._key, self._token, self._rhythm.lease_s)
        except asyncio.CancelledError:
            # It may be ours by now; nobody should have to wait until it runs out.
            self._background.spawn(self._end())
            raise
        if taken:
            self._holds = True
            self._renew_later()
        try:
            value = await self._look()
        except asyncio.CancelledError:
            await self.__aexit__(None, None, None)
            raise
        if taken and value is not None:
            await self.__aexit__(None, None, None)
        return taken, value

    def _renew_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._renewal = loop.call_later(
            self._rhythm.lease_s / 3, lambda: self._background.spawn(self._renew())
        )

    async def _renew(self) -> None:
        """A lease that is lost, or a store that is away, does not stop the run: its caller waits for it."""
        if self._renewal is None:
            return
        try:
            kept = await self._leases.renew(self._key, self._token, self._rhythm.lease_s)
            # It ran out while the store was away: take it again, unless somebody else has.
            if not kept and self._renewal is not None:
                await self._leases.take(self._key, self._token, self._rhythm.lease_s)
        except CacheStoreDown:
            pass
        if self._renewal is not None:
            self._renew_later()

    async def _landed(self, put: Coroutine[Any, Any, None], holds: bool) -> None:
        try:
            await put
        finally:
            if holds:
                await self._end()

    async def _end(self) -> None:
        renewal, self._renewal = self._renewal, None
        if renewal is not None:
            renewal.cancel()
        try:
            await self._leases.free(self._key, self._token)
        except CacheStoreDown:
            return  # it runs out by itself
