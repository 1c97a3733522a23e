"""The answer cache: exact matches, one tenant each, nothing believed that is not sealed.

The key is an HMAC over everything that can change an answer; the value carries its tenant and a MAC that
binds it to key and tenant, so neither a stranger's write to the store nor a moved value is ever served.
A store that fails or is slow means a miss, never an error to the caller.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from router.cache_store import CacheStore, CacheStoreDown
from router.codec import as_hit, decode_reply, encode_reply
from router.keys import cache_key, seal, unseal

__all__ = [
    "Cache",
    "CacheCounts",
    "MemoryCache",
    "RedisCache",
    "as_hit",
    "cache_key",
    "decode_reply",
    "encode_reply",
]


class Cache(Protocol):
    """Answers by key. Implementations never raise, except CancelledError."""

    @property
    def counts(self) -> CacheCounts: ...

    async def get(
        self, key: str, tenant: str, *, least_left_s: float = 0.0, counted: bool = True
    ) -> bytes | None:
        """The value, or None: unknown, expired, another tenant's, tampered with, or no store.

        A value that expires within `least_left_s` is as good as expired: of a known time to live that bounds
        the age, by the store's clock alone. Looks that are not `counted` leave hits and misses as they are.
        """
        ...

    async def put(self, key: str, tenant: str, value: bytes, ttl_s: float) -> None:
        """Keep the value for `ttl_s` seconds, if it is not too large and the store answers."""
        ...


@dataclass(slots=True)
class CacheCounts:
    """What has happened since the start. `refused` values failed their MAC or tenant check on read."""

    hits: int = 0
    misses: int = 0
    stored: int = 0
    refused: int = 0
    too_large: int = 0
    store_errors: int = 0


class MemoryCache:
    """In this process: least recently used goes first beyond `max_bytes`. For tests and single replicas."""

    def __init__(
        self, secret: bytes, max_bytes: int = 64 << 20, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._secret = secret
        self._max_bytes = max_bytes
        self._clock = clock
        self._bytes = 0
        self._kept: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self._counts = CacheCounts()

    @property
    def counts(self) -> CacheCounts:
        return self._counts

    async def get(
        self, key: str, tenant: str, *, least_left_s: float = 0.0, counted: bool = True
    ) -> bytes | None:
        data, expires_s = self._kept.get(key, (None, 0.0))
        now_s = self._clock()
        if data is not None and expires_s <= now_s:
            self._drop(key)
            data = None
        if data is not None and expires_s - now_s < least_left_s:
            data = None
        if data is not None:
            self._kept.move_to_end(key)
        return _opened(self._secret, key, tenant, data, self._counts, counted)

    async def put(self, key: str, tenant: str, value: bytes, ttl_s: float) -> None:
        if ttl_s <= 0:
            return
        data = _closed(self._secret, key, tenant, value, self._max_bytes, self._counts)
        if data is None:
            return
        self._drop(key)
        self._kept[key] = (data, self._clock() + ttl_s)
        self._bytes += len(data)
        self._counts.stored += 1
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: str) -> None:
        data, _ = self._kept.pop(key, (b"", 0.0))
        self._bytes -= len(data)


class RedisCache:
    """In Redis or Valkey, for all replicas; the server's own `maxmemory` and allkeys-lru bound the whole.

    `max_bytes` bounds one value.
    """

    def __init__(
        self, store: CacheStore, secret: bytes, max_bytes: int = 1 << 20, *, prefix: str = "acr:answer:"
    ) -> None:
        self._store = store
        self._secret = secret
        self._max_bytes = max_bytes
        self._prefix = prefix
        self._counts = CacheCounts()

    @property
    def counts(self) -> CacheCounts:
        return self._counts

    async def get(
        self, key: str, tenant: str, *, least_left_s: float = 0.0, counted: bool = True
    ) -> bytes | None:
        name = self._prefix + key
        try:
            if least_left_s > 0.0:
                data, left_ms = await asyncio.gather(
                    self._store.ask("GET", name), self._store.ask("PTTL", name)
                )
                data = data if left_ms >= least_left_s * 1000 else None
            else:
                data = await self._store.ask("GET", name)
        except CacheStoreDown as down:
            self._counts.store_errors += down.asked
            data = None
        return _opened(self._secret, key, tenant, data, self._counts, counted)

    async def put(self, key: str, tenant: str, value: bytes, ttl_s: float) -> None:
        if ttl_s <= 0:
            return
        data = _closed(self._secret, key, tenant, value, self._max_bytes, self._counts)
        if data is None:
            return
        try:
            await self._store.ask("SET", self._prefix + key, data, "PX", max(1, int(ttl_s * 1000)))
        except CacheStoreDown as down:
            self._counts.store_errors += down.asked
        else:
            self._counts.stored += 1


def _closed(
    secret: bytes, key: str, tenant: str, value: bytes, max_bytes: int, counts: CacheCounts
) -> bytes | None:
    """What is stored for a value; None if that is too large."""
    data = seal(secret, key, tenant, value)
    if len(data) > max_bytes:
        counts.too_large += 1
        return None
    return data


def _opened(
    secret: bytes, key: str, tenant: str, data: object, counts: CacheCounts, counted: bool
) -> bytes | None:
    value = None
    if isinstance(data, bytes):
        value = unseal(secret, key, tenant, data)
        counts.refused += value is None
    counts.hits += counted and value is not None
    counts.misses += counted and value is None
    return value
