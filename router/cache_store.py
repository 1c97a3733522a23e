"""The store of answers and flights: what is asked of it takes little time or fails, and a dead one rests."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from policies.batches import Argument, Batches, Script

log = logging.getLogger(__name__)


class CacheStoreDown(Exception):
    """The store failed, was slow, or rests after either. Nobody's answer depends on it: go on without.

    `asked` is False where it rests: nothing was sent.
    """

    def __init__(self, *, asked: bool) -> None:
        super().__init__("the cache store does not answer")
        self.asked = asked


class CacheStore:
    """One client's commands, each within `timeout_s`.

    After a failure the store is left alone for `rest_s`, so that a dead one costs one timeout now and then
    and not one a request. An error in the reply of one command (a wrong type, READONLY) is that command's
    alone. `client` must return bytes (`decode_responses=False`) and belong to the running event loop.
    """

    def __init__(
        self,
        client: Redis,
        *,
        timeout_s: float = 0.1,
        rest_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._batches = Batches(client)
        self._timeout_s = timeout_s
        self._rest_s = rest_s
        self._clock = clock
        self._resting_until_s = 0.0
        self._down = False
        self.errors = 0

    async def ask(self, *command: Argument) -> Any:
        """The command's reply. Commands asked for in one go arrive in that order. Raises CacheStoreDown."""
        return await self._within_time(lambda: self._batches.execute(*command))

    def script(self, text: str) -> Script:
        """A Lua script, to be called through `run`."""
        return self._batches.script(text)

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        """The script's reply. Raises CacheStoreDown."""
        return await self._within_time(lambda: script(keys=keys, args=args))

    async def _within_time(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        if self._clock() < self._resting_until_s:
            raise CacheStoreDown(asked=False)
        try:
            async with asyncio.timeout(self._timeout_s):
                reply = await ask()
        except ResponseError as error:
            self.errors += 1
            raise CacheStoreDown(asked=True) from error
        except (RedisError, OSError, TimeoutError) as error:
            self.errors += 1
            self._resting_until_s = self._clock() + self._rest_s
            self._told(down=True, why=type(error).__name__)
            raise CacheStoreDown(asked=True) from error
        self._told(down=False)
        return reply

    def _told(self, *, down: bool, why: str = "") -> None:
        """One line a change, not one a request."""
        if down != self._down:
            self._down = down
            if down:
                log.warning("the cache store does not answer (%s); requests are answered without it", why)
            else:
                log.warning("the cache store answers again")
