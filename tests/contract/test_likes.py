"""One suite over both stores of likenesses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from policies.store import connect
from router.cache_store import CacheStore
from router.likes import Likes, MemoryLikes, RedisLikes

MANY, LONG_S = 100, 60.0


@pytest.fixture(params=["memory", "redis"])
async def likes(request: pytest.FixtureRequest, valkey_url: str) -> AsyncIterator[Likes]:
    if request.param == "memory":
        yield MemoryLikes()
        return
    client = connect(valkey_url, command_timeout_s=10.0, decode_responses=False)
    yield RedisLikes(CacheStore(client, timeout_s=10.0), b"s" * 32, prefix=f"test:{uuid4().hex}:")
    await client.aclose()


async def test_what_is_new_is_told_once(likes: Likes):
    for entry in (b"1", b"2"):
        await likes.add("a", entry, max_entries=MANY, ttl_s=LONG_S)
    news = await likes.since("a", 0, ttl_s=LONG_S)
    assert [entry for _, entry in news.entries] == [b"1", b"2"]
    times = [at_us for at_us, _ in news.entries]
    assert times == sorted(set(times))
    assert news.oldest_us == times[0]
    assert news.now_us >= times[0]
    await likes.add("a", b"3", max_entries=MANY, ttl_s=LONG_S)
    later = await likes.since("a", times[-1], ttl_s=LONG_S)
    assert [entry for _, entry in later.entries] == [b"3"]
    assert (await likes.since("a", later.entries[-1][0], ttl_s=LONG_S)).entries == []


async def test_nothing_is_lost_of_many_at_once(likes: Likes):
    names = [b"%d" % number for number in range(50)]
    await asyncio.gather(*(likes.add("a", name, max_entries=MANY, ttl_s=LONG_S) for name in names))
    entries = (await likes.since("a", 0, ttl_s=LONG_S)).entries
    assert {entry for _, entry in entries} == set(names)
    assert len({at_us for at_us, _ in entries}) == 50


async def test_only_the_newest_are_kept(likes: Likes):
    for number in range(10):
        await likes.add("a", b"%d" % number, max_entries=3, ttl_s=LONG_S)
    news = await likes.since("a", 0, ttl_s=LONG_S)
    assert [entry for _, entry in news.entries] == [b"7", b"8", b"9"]
    assert news.oldest_us == news.entries[0][0]


async def test_tenants_are_apart(likes: Likes):
    await likes.add("a", b"1", max_entries=MANY, ttl_s=LONG_S)
    assert (await likes.since("b", 0, ttl_s=LONG_S)).entries == []


async def test_what_is_too_old_is_gone(likes: Likes):
    await likes.add("a", b"1", max_entries=MANY, ttl_s=LONG_S)
    async with asyncio.timeout(20):
        while (news := await likes.since("a", 0, ttl_s=0.05)).entries:
            await asyncio.sleep(0.01)
    assert news.oldest_us == 0
