"""One suite over both stores of Idempotency-Keys."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from policies.store import connect
from router import idempotency
from router.errors import IdempotencyInFlight, IdempotencyReused
from router.idempotency import (
    IN_FLIGHT_S,
    KEPT_S,
    MAX_REPLY_BYTES,
    IdempotencyStore,
    MemoryIdempotency,
    RedisIdempotency,
    Ticket,
    beat,
)

SECRET = b"s" * 32


@dataclass
class World:
    """A store and its time; the Redis one ages by having its records' expiry moved."""

    store: IdempotencyStore
    now_s: float = 0.0
    client: Redis | None = None
    prefix: str = ""

    async def later(self, seconds: float) -> None:
        self.now_s += seconds
        if self.client is not None:
            async for name in self.client.scan_iter(match=self.prefix + "*"):
                left_ms = await self.client.pttl(name)
                await self.client.pexpire(name, max(0, left_ms - int(seconds * 1000)))


@pytest.fixture(params=["memory", "redis"])
async def world(request: pytest.FixtureRequest, valkey_url: str) -> AsyncIterator[World]:
    if request.param == "memory":
        world = World(MemoryIdempotency())
        world.store = MemoryIdempotency(clock=lambda: world.now_s)
        yield world
        return
    client = connect(valkey_url, command_timeout_s=10.0, decode_responses=False)
    prefix = f"test:{uuid4().hex}:"
    yield World(RedisIdempotency(client, SECRET, prefix), client=client, prefix=prefix)
    await client.aclose()


def ticket(fingerprint: str = "f", *, tenant: str = "a", key: str = "k") -> Ticket:
    return Ticket(tenant, key, fingerprint)


async def test_first_in_flight_then_told(world: World):
    mine = ticket()
    assert await world.store.begin(mine) is None
    with pytest.raises(IdempotencyInFlight):
        await world.store.begin(ticket())
    assert await world.store.finish(mine, b"the\nreply\n")
    assert await world.store.begin(ticket()) == b"the\nreply\n"


async def test_an_empty_reply_is_a_reply(world: World):
    mine = ticket()
    await world.store.begin(mine)
    await world.store.finish(mine, b"")
    assert await world.store.begin(ticket()) == b""


async def test_one_of_many_runs(world: World):
    results = await asyncio.gather(*(world.store.begin(ticket()) for _ in range(100)), return_exceptions=True)
    assert results.count(None) == 1
    assert sum(isinstance(result, IdempotencyInFlight) for result in results) == 99


async def test_another_body_is_refused_in_flight_and_after(world: World):
    mine = ticket()
    await world.store.begin(mine)
    with pytest.raises(IdempotencyReused):
        await world.store.begin(ticket("g"))
    await world.store.finish(mine, b"reply")
    with pytest.raises(IdempotencyReused):
        await world.store.begin(ticket("g"))


async def test_tenants_do_not_share_keys(world: World):
    await world.store.begin(ticket())
    assert await world.store.begin(ticket("g", tenant="b")) is None
    assert await world.store.begin(ticket("g", key="l")) is None


async def test_a_key_given_back_is_free_for_any_body(world: World):
    mine = ticket()
    await world.store.begin(mine)
    await world.store.finish(mine, None)
    assert await world.store.begin(ticket("g")) is None


async def test_a_crashed_runs_key_is_free_soon_and_a_renewed_one_is_not(world: World):
    crashed, lives = ticket(key="crashed"), ticket(key="lives")
    await world.store.begin(crashed)
    await world.store.begin(lives)
    await world.later(IN_FLIGHT_S - 1)
    await world.store.renew(lives)
    with pytest.raises(IdempotencyInFlight):
        await world.store.begin(ticket(key="crashed"))
    await world.later(1)
    assert await world.store.begin(ticket(key="crashed")) is None
    with pytest.raises(IdempotencyInFlight):
        await world.store.begin(ticket(key="lives"))


async def test_replies_are_kept_for_their_time(world: World):
    mine = ticket()
    await world.store.begin(mine)
    await world.store.finish(mine, b"reply")
    await world.later(KEPT_S - 1)
    assert await world.store.begin(ticket()) == b"reply"
    await world.later(1)
    assert await world.store.begin(ticket()) is None


async def test_a_run_that_lost_its_key_holds_it_again_if_nobody_has_it(world: World):
    mine = ticket()
    await world.store.begin(mine)
    await world.later(IN_FLIGHT_S)
    await world.store.renew(mine)
    with pytest.raises(IdempotencyInFlight):
        await world.store.begin(ticket())


async def test_a_run_that_lost_its_key_takes_nothing_from_the_next(world: World):
    late, next_ = ticket(), ticket()
    await world.store.begin(late)
    await world.later(IN_FLIGHT_S)
    await world.store.begin(next_)
    await world.store.renew(late)
    await world.store.finish(late, None)
    await world.store.finish(late, b"late")
    with pytest.raises(IdempotencyInFlight):
        await world.store.begin(ticket())
    await world.store.finish(next_, b"next")
    await world.store.finish(late, b"late")
    assert await world.store.begin(ticket()) == b"next"


async def test_a_reply_outlasts_the_loss_of_its_mark(world: World):
    """The store was away, the mark ran out: the reply is kept all the same."""
    mine = ticket()
    await world.store.begin(mine)
    await world.later(IN_FLIGHT_S)
    assert await world.store.finish(mine, b"reply")
    assert await world.store.begin(ticket()) == b"reply"


async def test_saying_it_twice_changes_nothing(world: World):
    mine = ticket()
    await world.store.begin(mine)
    await world.store.finish(mine, b"reply")
    await world.store.finish(mine, b"reply")
    await world.store.finish(mine, None)
    await world.store.renew(mine)
    assert await world.store.begin(ticket()) == b"reply"


async def test_a_reply_that_is_too_large_spends_its_key(world: World):
    mine = ticket()
    await world.store.begin(mine)
    assert await world.store.finish(mine, b"x" * (MAX_REPLY_BYTES + 1))
    with pytest.raises(IdempotencyReused, match="too large"):
        await world.store.begin(ticket())


async def test_a_run_that_beats_keeps_its_key(world: World):
    mine = ticket()
    await world.store.begin(mine)
    beating = asyncio.create_task(beat(world.store, mine, every_s=0.005))
    try:
        for _ in range(3):
            await world.later(IN_FLIGHT_S - 1)
            await asyncio.sleep(0.1)
            with pytest.raises(IdempotencyInFlight):
                await world.store.begin(ticket())
    finally:
        beating.cancel()


def test_a_run_has_several_beats_before_its_key_is_lost():
    assert idempotency.HEARTBEAT_S * 5 <= IN_FLIGHT_S


async def test_old_replies_go_before_what_is_in_flight():
    store = MemoryIdempotency(max_records=2)
    running, done, new = ticket(key="running"), ticket(key="done"), ticket(key="new")
    await store.begin(running)
    await store.begin(done)
    await store.finish(done, b"reply")
    await store.begin(new)
    assert await store.begin(ticket(key="done")) is None
    with pytest.raises(IdempotencyInFlight):
        await store.begin(ticket(key="running"))
