"""Rate limits on a real server: its own clock, what it keeps, and both implementations side by side."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable

import pytest
from redis.asyncio import Redis

from policies.errors import LimitExceeded, StoreUnavailable
from policies.limit_spec import Limits
from policies.limits import LimitScopes, LimitUsage, RedisLimits
from policies.store import connect
from tests.clocked_limits import Gate
from tests.servers import ValkeyServer


@pytest.fixture
async def client(valkey_url: str) -> AsyncIterator[Redis]:
    client = connect(valkey_url, command_timeout_s=10.0, pool_timeout_s=30.0)
    yield client
    await client.aclose()


def of(limits: Limits) -> LimitScopes:
    return [("tenant", limits)]


async def test_a_slot_of_a_crashed_replica_frees_itself_on_the_servers_clock(client: Redis) -> None:
    scopes, tenant, store = of(Limits(concurrency=1)), "t" + secrets.token_hex(8), RedisLimits(client)
    await store.admit(tenant, scopes, slot_id="dead", tokens=0, least_tokens=0, ttl_s=0.1)
    deadline = time.monotonic() + 5
    admitted = False
    while not admitted and time.monotonic() < deadline:
        try:
            await store.admit(tenant, scopes, slot_id="next", tokens=0, least_tokens=0, ttl_s=30)
            admitted = True
        except LimitExceeded:
            await asyncio.sleep(0.01)
    assert admitted


async def test_what_is_left_behind_expires(client: Redis) -> None:
    tenant, store = "t" + secrets.token_hex(8), RedisLimits(client)
    scopes = [
        (scope, Limits(requests_per_minute=60, tokens_per_minute=600, concurrency=5))
        for scope in ("tenant", "key:k1")
    ]
    await store.admit(tenant, scopes, slot_id="long", tokens=60, least_tokens=1, ttl_s=90)
    await store.admit(tenant, scopes, slot_id="short", tokens=60, least_tokens=1, ttl_s=1)
    await store.leave(tenant, scopes, "unknown", tokens=0)
    keys = [key async for key in client.scan_iter(f"acr:{{{tenant}}}:*")]
    times = {key: await client.pttl(key) for key in keys if await client.exists(key)}
    assert len(keys) == 6 + 3
    assert all(0 < ttl <= 90_000 for ttl in times.values())
    assert times[f"acr:{{{tenant}}}:limit:tenant:requests"] <= 2_002
    assert times[f"acr:{{{tenant}}}:limit:key:k1:tokens"] <= 12_002


async def test_both_implementations_agree_step_by_step(client: Redis) -> None:
    """500 random steps in two scopes: the same grants, refusals, waits and what is left.

    Admissions live long and end once: their records expire on the server's clock, not on the test's.
    """
    rng = random.Random(4)
    limits = (
        Limits(requests_per_minute=5, tokens_per_minute=9_000, concurrency=12),
        Limits(requests_per_minute=4, tokens_per_minute=12_000, concurrency=10),
    )
    here, there = Gate(None, limits), Gate(client, limits)
    inside: set[str] = set()
    outcomes = {"granted": 0, "requests": 0, "tokens": 0, "concurrency": 0}
    for _ in range(500):
        pause = rng.choice((0.0, 0.25, 1.5, 20.0))
        tokens, least, slot = rng.randrange(3_000), rng.randrange(500), f"s{rng.randrange(40)}"
        charged = rng.choice((None, rng.randrange(4_000)))
        found: list[LimitUsage | tuple[str, str, float | None]] = []
        for gate in (here, there):
            await gate.later(pause)
            try:
                found.append(await gate.admit(tokens, slot, least=least, ttl_s=86_400))
                outcomes["granted"] += 1
                inside.add(slot)
            except LimitExceeded as error:
                outcomes[error.kind] += 1
                wait = None if error.retry_after_s is None else round(error.retry_after_s, 4)
                found.append((error.kind, error.scope, wait))
        assert _rounded(found[0]) == _rounded(found[1])
        if slot in inside and rng.random() < 0.6:
            inside.discard(slot)
            for gate in (here, there):
                await gate.leave(slot, charged)
    assert min(outcomes.values()) > 10, outcomes


def _rounded(found: LimitUsage | tuple[str, str, float | None]) -> object:
    if isinstance(found, tuple):
        return found
    return (
        found.limit_requests,
        found.remaining_requests,
        found.limit_tokens,
        found.remaining_tokens,
        round(found.reset_requests_s or 0, 4),
        round(found.reset_tokens_s or 0, 4),
    )


async def test_without_limits_nothing_is_asked(start_valkey: Callable[..., ValkeyServer]) -> None:
    server = start_valkey()
    client = connect(server.url, command_timeout_s=0.1)
    store = RedisLimits(client)
    server.freeze()
    free, one = of(Limits()), of(Limits(concurrency=1))
    assert await store.admit("t", free, slot_id="a", tokens=10, least_tokens=1, ttl_s=30) == LimitUsage()
    await store.leave("t", free, "a", tokens=None)
    for call in (
        store.admit("t", one, slot_id="a", tokens=10, least_tokens=1, ttl_s=30),
        store.leave("t", one, "a", tokens=3),
    ):
        with pytest.raises(StoreUnavailable):
            await call
    await client.aclose()


async def test_an_admission_that_the_frozen_server_runs_late_takes_no_slot(
    start_valkey: Callable[..., ValkeyServer],
) -> None:
    """The admission times out, the request gives up; the server wakes up and runs both, in either order."""
    server = start_valkey()
    client = connect(server.url, command_timeout_s=0.2)
    patient = connect(server.url, command_timeout_s=10.0)
    store, scopes = RedisLimits(client), of(Limits(concurrency=1, requests_per_minute=100))
    await store.admit("t", scopes, slot_id="warm", tokens=0, least_tokens=0, ttl_s=30)
    await store.leave("t", scopes, "warm", tokens=0)
    server.freeze()
    with pytest.raises(StoreUnavailable):
        await store.admit("t", scopes, slot_id="late", tokens=0, least_tokens=0, ttl_s=30)
    leaving = asyncio.create_task(RedisLimits(patient).leave("t", scopes, "late", tokens=0))
    server.resume()
    await leaving
    deadline = time.monotonic() + 5
    while await patient.zcard("acr:{t}:limit:tenant:slots") and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    await RedisLimits(patient).admit("t", scopes, slot_id="next", tokens=0, least_tokens=0, ttl_s=30)
    await client.aclose()
    await patient.aclose()
