"""One suite over every answer cache: what is kept, for whom, and how long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from policies.store import connect
from router.cache import Cache, MemoryCache, RedisCache
from router.cache_store import CacheStore

SECRET = b"s" * 32


@pytest.fixture(params=["memory", "redis"])
async def cache(request: pytest.FixtureRequest, valkey_url: str) -> AsyncIterator[Cache]:
    if request.param == "memory":
        yield MemoryCache(SECRET, max_bytes=4096)
        return
    client = connect(valkey_url, command_timeout_s=10.0, decode_responses=False)
    yield RedisCache(CacheStore(client, timeout_s=10.0), SECRET, 4096, prefix=f"test:{uuid4().hex}:")
    await client.aclose()


async def test_what_is_put_is_got_by_its_tenant_under_its_key(cache: Cache):
    await cache.put("k", "a", b"value", 60)
    assert await cache.get("k", "a") == b"value"
    assert await cache.get("k", "b") is None
    assert await cache.get("l", "a") is None


async def test_a_later_value_replaces_an_earlier_one(cache: Cache):
    await cache.put("k", "a", b"old", 60)
    await cache.put("k", "a", b"new", 60)
    assert await cache.get("k", "a") == b"new"


async def test_an_empty_value_is_a_value(cache: Cache):
    await cache.put("k", "a", b"", 60)
    assert await cache.get("k", "a") == b""


@pytest.mark.parametrize("ttl_s", [0, 0.0, -1])
async def test_without_time_to_live_nothing_is_kept(cache: Cache, ttl_s: float):
    await cache.put("k", "a", b"value", ttl_s)
    assert await cache.get("k", "a") is None


async def test_values_run_out(cache: Cache):
    await cache.put("k", "a", b"value", 0.05)
    async with asyncio.timeout(20):
        while await cache.get("k", "a") is not None:
            await asyncio.sleep(0.01)


async def test_what_runs_out_too_soon_is_as_good_as_gone(cache: Cache):
    """Of a time to live of 60 s, at least 59 left: not older than one second."""
    await cache.put("k", "a", b"value", 60)
    assert await cache.get("k", "a", least_left_s=30) == b"value"
    assert await cache.get("k", "a", least_left_s=60.5) is None
    assert await cache.get("unknown", "a", least_left_s=30) is None
    assert await cache.get("k", "a") == b"value"


async def test_giant_values_are_not_kept_and_take_nothing_away(cache: Cache):
    await cache.put("small", "a", b"v", 60)
    await cache.put("giant", "a", b"v" * 5000, 60)
    assert await cache.get("giant", "a") is None
    assert await cache.get("small", "a") == b"v"
    assert cache.counts.too_large == 1


async def test_looks_that_are_not_counted_count_nothing(cache: Cache):
    await cache.put("k", "a", b"value", 60)
    await cache.get("k", "a", counted=False)
    await cache.get("l", "a", counted=False)
    assert (cache.counts.hits, cache.counts.misses) == (0, 0)
