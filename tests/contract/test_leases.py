"""One suite over every kind of lease."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from policies.store import connect
from router.cache_store import CacheStore
from router.leases import Leases, MemoryLeases, RedisLeases

LONG_S = 60.0


@pytest.fixture(params=["memory", "redis"])
async def leases(request: pytest.FixtureRequest, valkey_url: str) -> AsyncIterator[Leases]:
    if request.param == "memory":
        yield MemoryLeases()
        return
    client = connect(valkey_url, command_timeout_s=10.0, decode_responses=False)
    yield RedisLeases(CacheStore(client, timeout_s=10.0), prefix=f"test:{uuid4().hex}:")
    await client.aclose()


async def test_one_of_many_gets_it(leases: Leases):
    taken = await asyncio.gather(*(leases.take("a", f"t{i}", LONG_S) for i in range(100)))
    assert taken.count(True) == 1


async def test_names_do_not_meet(leases: Leases):
    assert await leases.take("a", "t1", LONG_S)
    assert await leases.take("b", "t2", LONG_S)


async def test_only_its_holder_frees_it(leases: Leases):
    await leases.take("a", "t1", LONG_S)
    assert not await leases.free("a", "t2")
    assert not await leases.take("a", "t2", LONG_S)
    assert await leases.free("a", "t1")
    assert not await leases.free("a", "t1")
    assert await leases.take("a", "t2", LONG_S)


async def test_only_its_holder_renews_it(leases: Leases):
    await leases.take("a", "t1", LONG_S)
    assert await leases.renew("a", "t1", LONG_S)
    assert not await leases.renew("a", "t2", LONG_S)
    assert not await leases.renew("b", "t1", LONG_S)


async def test_it_runs_out_unless_it_is_renewed(leases: Leases):
    await leases.take("short", "t1", 0.05)
    await leases.take("kept", "t1", 0.05)
    await leases.renew("kept", "t1", LONG_S)
    async with asyncio.timeout(20):
        while not await leases.take("short", "t2", LONG_S):
            await asyncio.sleep(0.01)
    assert not await leases.renew("short", "t1", LONG_S)
    assert not await leases.free("short", "t1")
    assert not await leases.take("kept", "t2", LONG_S)
