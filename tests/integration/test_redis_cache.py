from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from redis.asyncio import BlockingConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from router.cache import RedisCache, decode_reply, encode_reply
from router.cache_store import CacheStore
from tests.fakes_http import REPLY

SECRET = b"s" * 32


def connect(url: str, timeout_s: float = 2.0) -> Redis:
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=8,
        timeout=timeout_s,
        socket_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
    )
    return Redis(connection_pool=pool)


class FakeClock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
async def client(valkey_url: str) -> AsyncIterator[Redis]:
    client = connect(valkey_url)
    yield client
    await client.aclose()


@pytest.fixture
def prefix() -> str:
    """Tests share a server: each has names of its own."""
    return f"test:{uuid4().hex}:"


@pytest.fixture
def cache(client: Redis, prefix: str) -> RedisCache:
    return RedisCache(CacheStore(client, timeout_s=2.0), SECRET, prefix=prefix)


async def test_a_reply_goes_and_comes_back(cache: RedisCache) -> None:
    await cache.put("k", "a", encode_reply(REPLY), 60)
    value = await cache.get("k", "a")
    assert value is not None
    assert decode_reply(value) == REPLY
    assert (cache.counts.hits, cache.counts.stored, cache.counts.store_errors) == (1, 1, 0)


async def test_unknown_is_a_miss(cache: RedisCache) -> None:
    assert await cache.get("k", "a") is None
    assert cache.counts.misses == 1


async def test_replicas_share_it_and_other_secrets_do_not(
    client: Redis, cache: RedisCache, prefix: str
) -> None:
    await cache.put("k", "a", b"v", 60)
    assert await RedisCache(CacheStore(client), SECRET, prefix=prefix).get("k", "a") == b"v"
    stranger = RedisCache(CacheStore(client), b"t" * 32, prefix=prefix)
    assert await stranger.get("k", "a") is None
    assert stranger.counts.refused == 1


async def test_the_store_expires_values_by_itself(client: Redis, cache: RedisCache, prefix: str) -> None:
    await cache.put("k", "a", b"v", 60)
    ttl_ms = await client.pttl(prefix + "k")
    assert 50_000 < ttl_ms <= 60_000
    await client.pexpire(prefix + "k", 0)
    assert await cache.get("k", "a") is None


async def test_a_moved_value_is_a_miss(client: Redis, cache: RedisCache, prefix: str) -> None:
    await cache.put("k", "a", b"v", 60)
    await client.copy(prefix + "k", prefix + "other")
    assert await cache.get("other", "a") is None
    assert await cache.get("k", "b") is None
    assert cache.counts.refused == 2


@pytest.mark.parametrize("written", [b"", b"v", b"\x00" * 100, b"\xff" * 33])
async def test_a_strangers_write_is_a_miss(
    client: Redis, cache: RedisCache, prefix: str, written: bytes
) -> None:
    await client.set(prefix + "k", written)
    assert await cache.get("k", "a") is None
    assert cache.counts.refused == 1


async def test_a_changed_byte_is_a_miss(client: Redis, cache: RedisCache, prefix: str) -> None:
    await cache.put("k", "a", b"value", 60)
    await client.setrange(prefix + "k", 40, b"X")
    assert await cache.get("k", "a") is None


async def test_another_type_under_the_key_is_a_miss(client: Redis, cache: RedisCache, prefix: str) -> None:
    await client.rpush(prefix + "k", "x")
    assert await cache.get("k", "a") is None
    assert cache.counts.store_errors == 1


async def test_large_values_are_not_stored(client: Redis, prefix: str) -> None:
    cache = RedisCache(CacheStore(client), SECRET, 100, prefix=prefix)
    await cache.put("k", "a", b"v" * 100, 60)
    assert await client.exists(prefix + "k") == 0
    assert cache.counts.too_large == 1


async def test_a_dead_store_is_a_miss_and_is_left_alone_for_a_while(prefix: str, tmp_path) -> None:
    clock = FakeClock()
    client = connect(f"unix://{tmp_path}/nobody.sock")
    cache = RedisCache(CacheStore(client, rest_s=1.0, clock=clock), SECRET, prefix=prefix)
    assert await cache.get("k", "a") is None
    await cache.put("k", "a", b"v", 60)
    assert await cache.get("k", "a") is None
    assert cache.counts.store_errors == 1
    clock.now_s = 1.0
    assert await cache.get("k", "a") is None
    assert cache.counts.store_errors == 2
    await client.aclose()


async def test_a_frozen_store_is_a_miss_and_no_answer_is_mixed_up_after_it(
    valkey_url: str, client: Redis, prefix: str
) -> None:
    clock = FakeClock()
    # A client without any timeout of its own: the cache's must do.
    patient = connect(valkey_url, timeout_s=60)
    cache = RedisCache(CacheStore(patient, timeout_s=0.05, rest_s=1.0, clock=clock), SECRET, prefix=prefix)
    names = [f"k{i}" for i in range(8)]
    generous = RedisCache(CacheStore(client, timeout_s=5), SECRET, prefix=prefix)
    for name in names:
        await generous.put(name, "a", name.encode(), 60)
    await client.execute_command("CLIENT", "PAUSE", 300, "ALL")
    try:
        assert await asyncio.gather(*(cache.get(name, "a") for name in names)) == [None] * 8
    finally:
        await client.execute_command("CLIENT", "UNPAUSE")
    assert cache.counts.store_errors == 8
    # Had a cancelled command left its reply on a connection, the next one would read it.
    late = RedisCache(CacheStore(patient, timeout_s=5), SECRET, prefix=prefix)
    assert await asyncio.gather(*(late.get(name, "a") for name in names)) == [n.encode() for n in names]
    await patient.aclose()


@pytest.mark.parametrize("ticks", range(8))
async def test_a_cancelled_get_is_cancelled_and_not_a_miss(
    valkey_url: str, client: Redis, prefix: str, ticks: int
) -> None:
    patient = connect(valkey_url, timeout_s=60)
    cache = RedisCache(CacheStore(patient, timeout_s=30), SECRET, prefix=prefix)
    await cache.get("warm", "a")
    await client.execute_command("CLIENT", "PAUSE", 100, "ALL")
    try:
        task = asyncio.create_task(cache.get("k", "a"))
        for _ in range(ticks):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    finally:
        await client.execute_command("CLIENT", "UNPAUSE")
    assert cache.counts.store_errors == 0
    await patient.aclose()
