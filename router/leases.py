"""Leases on names: who holds one may go on; a holder that dies loses it within the lease's time.

They save work and guard nothing: a holder that stalls longer than its lease may find another one at work.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from router.cache_store import CacheStore
from router.scripts import script_source


class Leases(Protocol):
    """Raises CacheStoreDown where the store does not answer."""

    async def take(self, name: str, token: str, ttl_s: float) -> bool:
        """Take the lease if nobody has it; one of many who try gets it."""
        ...

    async def renew(self, name: str, token: str, ttl_s: float) -> bool:
        """Keep it for another `ttl_s`. False where it is not the token's any more."""
        ...

    async def free(self, name: str, token: str) -> bool:
        """Give it back; somebody else's stays. False where it was not the token's."""
        ...


class MemoryLeases:
    """In this process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._held: dict[str, tuple[str, float]] = {}

    async def take(self, name: str, token: str, ttl_s: float) -> bool:
        if self._holder(name) is not None:
            return False
        self._held[name] = (token, self._clock() + ttl_s)
        return True

    async def renew(self, name: str, token: str, ttl_s: float) -> bool:
        if self._holder(name) != token:
            return False
        self._held[name] = (token, self._clock() + ttl_s)
        return True

    async def free(self, name: str, token: str) -> bool:
        if self._holder(name) != token:
            return False
        del self._held[name]
        return True

    def _holder(self, name: str) -> str | None:
        token, until_s = self._held.get(name, (None, 0.0))
        if token is not None and until_s <= self._clock():
            del self._held[name]
            return None
        return token


class RedisLeases:
    """In Redis or Valkey, for all replicas. A key holds its holder's token and expires by itself."""

    def __init__(self, store: CacheStore, *, prefix: str = "acr:flight:") -> None:
        self._store = store
        self._prefix = prefix
        self._renew = store.script(script_source("renew_if_mine"))
        self._free = store.script(script_source("free_if_mine"))

    async def take(self, name: str, token: str, ttl_s: float) -> bool:
        taken = await self._store.ask("SET", self._prefix + name, token, "NX", "PX", _ms(ttl_s))
        return taken is not None

    async def renew(self, name: str, token: str, ttl_s: float) -> bool:
        return bool(await self._store.run(self._renew, [self._prefix + name], [token, _ms(ttl_s)]))

    async def free(self, name: str, token: str) -> bool:
        return bool(await self._store.run(self._free, [self._prefix + name], [token]))


def _ms(seconds: float) -> int:
    return max(1, int(seconds * 1000))
