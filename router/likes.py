"""Where a tenant's likenesses are kept for all replicas: sealed entries, the newest of them."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from router.cache_store import CacheStore
from router.scripts import script_source

US = 1_000_000


@dataclass(frozen=True, slots=True)
class News:
    """`entries` with their times, later than the last that was seen; what is before `oldest_us` is gone."""

    now_us: int
    oldest_us: int
    entries: list[tuple[int, bytes]]


class Likes(Protocol):
    """Raises CacheStoreDown where the store does not answer."""

    async def add(self, tenant: str, entry: bytes, *, max_entries: int, ttl_s: float) -> None:
        """Keep the entry, and no more than the newest `max_entries`."""
        ...

    async def since(self, tenant: str, last_us: int, *, ttl_s: float) -> News:
        """What came after `last_us` (0: everything), of what is not older than `ttl_s`."""
        ...


class MemoryLikes:
    """In this process."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._kept: dict[str, list[tuple[int, bytes]]] = {}

    async def add(self, tenant: str, entry: bytes, *, max_entries: int, ttl_s: float) -> None:
        kept = self._kept.setdefault(tenant, [])
        now_us = int(self._clock() * US)
        kept.append((max(now_us, kept[-1][0] + 1) if kept else now_us, entry))
        del kept[:-max_entries]

    async def since(self, tenant: str, last_us: int, *, ttl_s: float) -> News:
        now_us = int(self._clock() * US)
        kept = [item for item in self._kept.get(tenant, []) if item[0] > now_us - ttl_s * US]
        self._kept[tenant] = kept
        oldest_us = kept[0][0] if kept else 0
        return News(now_us, oldest_us, [item for item in kept if item[0] > last_us])


class RedisLikes:
    """In Redis or Valkey: a sorted set a tenant, by the store's own time."""

    def __init__(self, store: CacheStore, secret: bytes, *, prefix: str = "acr:like:") -> None:
        self._store = store
        self._secret = secret
        self._prefix = prefix
        self._add = store.script(script_source("like_add"))
        self._since = store.script(script_source("like_since"))

    async def add(self, tenant: str, entry: bytes, *, max_entries: int, ttl_s: float) -> None:
        await self._store.run(self._add, [self._name(tenant)], [entry, max_entries, int(ttl_s * 1000)])

    async def since(self, tenant: str, last_us: int, *, ttl_s: float) -> News:
        found = await self._store.run(self._since, [self._name(tenant)], [last_us, int(ttl_s * 1000)])
        now_us, oldest_us = int(found[0]), int(float(found[1]))
        scores = [int(float(score)) for score in found[3::2]]
        return News(now_us, oldest_us, list(zip(scores, found[2::2], strict=True)))

    def _name(self, tenant: str) -> str:
        digest = hmac.new(self._secret, b"like\0" + tenant.encode(), hashlib.sha256)
        return self._prefix + digest.hexdigest()[:32]
