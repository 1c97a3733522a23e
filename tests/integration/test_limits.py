"""Rate limits on a real server, with the script's clock in the test's hand where time matters."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable

import pytest
from redis.asyncio import Redis

from policies.errors import LimitExceeded, StoreUnavailable
from policies.limits import LimitUsage, RedisLimits
from policies.schema import Limits
from policies.store import connect, lua_source
from router.request import LimitState
from tests.servers import ValkeyServer

START_US = 1_956_528_000_000_000


class Gate:
    """The limits of one tenant; `now_us` is their clock."""

    def __init__(self, client: Redis, limits: Limits) -> None:
        self.client = client
        self.limits = limits
        self.tenant = "t" + secrets.token_hex(8)
        self.clock = f"acr:{{{self.tenant}}}:requests:now"
        self.now_us = START_US
        self.store = RedisLimits(client, source=self._source)
        self.slots = 0

    def _source(self, name: str) -> str:
        text = lua_source(name)
        assert "redis.call('TIME')" in text
        now = "redis.call('GET', KEYS[1] .. ':now')"
        return text.replace("redis.call('TIME')", f"{{ string.sub({now}, 1, -7), string.sub({now}, -6) }}")

    async def later(self, seconds: float) -> None:
        self.now_us += round(seconds * 1e6)

    async def admit(self, tokens: int = 0, slot: str = "", ttl_s: float = 30.0) -> LimitUsage:
        self.slots += 1
        slot = slot or str(self.slots)
        await self.client.set(self.clock, self.now_us)
        return await self.store.admit(self.tenant, self.limits, slot_id=slot, tokens=tokens, slot_ttl_s=ttl_s)

    async def refused(self, tokens: int = 0) -> LimitExceeded:
        with pytest.raises(LimitExceeded) as caught:
            await self.admit(tokens)
        return caught.value


@pytest.fixture
async def client(valkey_url: str) -> AsyncIterator[Redis]:
    client = connect(valkey_url, command_timeout_s=10.0, pool_timeout_s=30.0)
    yield client
    await client.aclose()


async def test_100_tasks_on_a_limit_of_5_admit_exactly_5(client: Redis) -> None:
    for limits in (Limits(requests_per_minute=5), Limits(concurrency=5), Limits(tokens_per_minute=50)):
        gate = Gate(client, limits)
        results = await asyncio.gather(*(gate.admit(10) for _ in range(100)), return_exceptions=True)
        assert sum(isinstance(result, LimitUsage) for result in results) == 5
        assert all(isinstance(result, LimitUsage | LimitExceeded) for result in results)


@pytest.mark.parametrize("limit", [1, 3, 7, 59, 60, 61, 1000])
async def test_a_whole_minutes_requests_at_once_and_not_one_more(client: Redis, limit: int) -> None:
    gate = Gate(client, Limits(requests_per_minute=limit))
    left = [(await gate.admit()).remaining_requests for _ in range(limit)]
    assert left == list(range(limit))[::-1]
    assert (await gate.refused()).kind == "requests"


async def test_the_wait_is_exact(client: Redis) -> None:
    gate = Gate(client, Limits(requests_per_minute=3))
    for _ in range(3):
        await gate.admit()
    await gate.later(7.5)
    refused = await gate.refused()
    assert refused.retry_after_s == pytest.approx(12.5, abs=2e-6)
    await gate.later(12.499)
    assert (await gate.refused()).retry_after_s == pytest.approx(0.001, abs=2e-6)
    await gate.later(0.001)
    await gate.admit()
    assert (await gate.refused()).retry_after_s == pytest.approx(20.0, abs=2e-6)


async def test_an_evenly_paced_caller_is_never_refused(client: Redis) -> None:
    gate = Gate(client, Limits(requests_per_minute=7))
    for _ in range(7):
        await gate.admit()
    for _ in range(50):
        await gate.later(60 / 7)
        await gate.admit()
        assert (await gate.refused()).kind == "requests"


async def test_a_clock_that_steps_back_lets_nobody_in_twice(client: Redis) -> None:
    gate = Gate(client, Limits(requests_per_minute=2))
    await gate.admit()
    await gate.later(-30)
    assert (await gate.admit()).remaining_requests == 0
    assert (await gate.refused()).retry_after_s == pytest.approx(30.0, abs=2e-6)


async def test_tokens_are_charged_as_estimated(client: Redis) -> None:
    gate = Gate(client, Limits(tokens_per_minute=6000))
    usage = await gate.admit(4500)
    assert (usage.limit_tokens, usage.remaining_tokens) == (6000, 1500)
    assert usage.reset_tokens_s == pytest.approx(45.0, abs=1e-5)
    refused = await gate.refused(2000)
    assert (refused.kind, refused.retry_after_s) == ("tokens", pytest.approx(5.0, abs=1e-5))
    assert (await gate.admit(1500)).remaining_tokens == 0
    await gate.later(60)
    assert (await gate.admit(0)).remaining_tokens == 6000


async def test_what_is_above_the_limit_by_itself_need_not_wait(client: Redis) -> None:
    gate = Gate(client, Limits(requests_per_minute=1, tokens_per_minute=100))
    await gate.admit(1)
    refused = await gate.refused(101)
    assert (refused.kind, refused.retry_after_s) == ("tokens", None)
    assert "make it smaller" in str(refused)


async def test_a_refusal_counts_against_nothing(client: Redis) -> None:
    gate = Gate(client, Limits(requests_per_minute=10, tokens_per_minute=100, concurrency=10))
    before = await gate.admit(60)
    for _ in range(5):
        refused = await gate.refused(50)
        assert refused.usage == before
    usage = await gate.admit(40)
    assert (usage.remaining_requests, usage.remaining_tokens) == (8, 0)
    assert await client.zcard(f"acr:{{{gate.tenant}}}:slots") == 2


async def test_the_longest_wait_is_told(client: Redis) -> None:
    gate = Gate(client, Limits(requests_per_minute=60, tokens_per_minute=60, concurrency=1))
    await gate.admit(60)
    refused = await gate.refused(30)
    assert (refused.kind, refused.retry_after_s) == ("tokens", pytest.approx(30.0, abs=1e-5))
    refused = await gate.refused(0)
    assert (refused.kind, refused.retry_after_s) == ("concurrency", 1.0)


async def test_headers_say_all_of_it(client: Redis) -> None:
    gate = Gate(client, Limits(requests_per_minute=60, tokens_per_minute=600))
    usage = await gate.admit(60)
    assert usage.limit_requests == 60
    assert usage.remaining_requests == 59
    assert usage.reset_requests_s == pytest.approx(1.0, abs=1e-5)
    assert usage.remaining_tokens == 540
    assert usage.reset_tokens_s == pytest.approx(6.0, abs=1e-5)
    assert set(LimitUsage.__slots__) == set(LimitState.__slots__)
    only = Gate(client, Limits(concurrency=3))
    assert await only.admit() == LimitUsage()


async def test_slots_are_freed_and_free_themselves(client: Redis) -> None:
    gate = Gate(client, Limits(concurrency=2))
    await gate.admit(slot="a", ttl_s=10)
    await gate.admit(slot="b", ttl_s=20)
    await gate.admit(slot="b", ttl_s=20)  # a repeat keeps its slot
    assert (await gate.refused()).kind == "concurrency"
    await gate.store.release_slot(gate.tenant, gate.limits, "b")
    await gate.store.release_slot(gate.tenant, gate.limits, "b")
    await gate.admit(slot="c", ttl_s=20)
    assert (await gate.refused()).kind == "concurrency"
    await gate.later(10)
    await gate.admit(slot="d")  # a's time is over
    assert (await gate.refused()).kind == "concurrency"


async def test_a_slot_of_a_crashed_replica_frees_itself_on_the_servers_clock(client: Redis) -> None:
    limits, tenant = Limits(concurrency=1), "t" + secrets.token_hex(8)
    store = RedisLimits(client)
    await store.admit(tenant, limits, slot_id="dead", tokens=0, slot_ttl_s=0.1)
    deadline = time.monotonic() + 5
    admitted = False
    while not admitted and time.monotonic() < deadline:
        try:
            await store.admit(tenant, limits, slot_id="next", tokens=0, slot_ttl_s=30)
            admitted = True
        except LimitExceeded:
            await asyncio.sleep(0.01)
    assert admitted


async def test_what_is_left_behind_expires(client: Redis) -> None:
    limits = Limits(requests_per_minute=60, tokens_per_minute=600, concurrency=5)
    tenant, store = "t" + secrets.token_hex(8), RedisLimits(client)
    await store.admit(tenant, limits, slot_id="long", tokens=60, slot_ttl_s=90)
    await store.admit(tenant, limits, slot_id="short", tokens=60, slot_ttl_s=1)
    times = {name: await client.pttl(f"acr:{{{tenant}}}:{name}") for name in ("requests", "tokens", "slots")}
    assert 0 < times["requests"] <= 2_002
    assert 0 < times["tokens"] <= 12_002
    assert 1_000 < times["slots"] <= 90_000


async def test_tenants_do_not_share_limits(client: Redis) -> None:
    first, second = (Gate(client, Limits(requests_per_minute=1)) for _ in range(2))
    await first.admit()
    await second.admit()
    assert (await first.refused()).kind == "requests"


async def test_without_limits_nothing_is_asked(start_valkey: Callable[..., ValkeyServer]) -> None:
    server = start_valkey()
    client = connect(server.url, command_timeout_s=0.1)
    store = RedisLimits(client)
    server.freeze()
    assert await store.admit("t", Limits(), slot_id="a", tokens=10, slot_ttl_s=30) == LimitUsage()
    await store.release_slot("t", Limits(requests_per_minute=5), "a")
    for call in (
        store.admit("t", Limits(concurrency=1), slot_id="a", tokens=10, slot_ttl_s=30),
        store.release_slot("t", Limits(concurrency=1), "a"),
    ):
        with pytest.raises(StoreUnavailable):
            await call
    await client.aclose()


@pytest.mark.parametrize("tokens", [-1, 1.5, True, 2**53])
async def test_estimates_are_whole_numbers(client: Redis, tokens: int) -> None:
    with pytest.raises(ValueError, match="whole number"):
        await Gate(client, Limits(tokens_per_minute=5)).admit(tokens)
