"""The benchmark's invariants at a size that a test can afford, and that they notice a ledger without them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
from redis.asyncio import Redis

from benchmarks.ledger.invariants import Crowd
from policies.ledger import Ledger, RedisLedger
from policies.memory_ledger import InMemoryLedger
from policies.store import connect, lua_source


@pytest.fixture
async def client(valkey_url: str) -> AsyncIterator[Redis]:
    client = connect(valkey_url, command_timeout_s=30.0, pool_timeout_s=60.0)
    yield client
    await client.aclose()


async def test_nothing_is_overdrawn_and_every_bill_adds_up(client: Redis) -> None:
    """Duplicates, cancellations, three units, three scopes, snapshots at one moment throughout."""
    found = await Crowd([RedisLedger(client) for _ in range(3)], 2000, 256).run()
    assert found.broken == []
    assert (found.overshoot, found.partial) == (0, 0)
    assert min(found.granted, found.denied, found.duplicates, found.cancelled, found.snapshots) > 5


async def test_the_ledger_in_memory_under_the_same_crowd() -> None:
    found = await Crowd([InMemoryLedger()], 1000, 64).run()
    assert found.broken == []


@pytest.mark.parametrize(
    ("script", "line", "instead"),
    [
        ("reserve", "if short then return short end", ""),
        ("common", "if limit then", "if limit and scope == 'organisation' then"),
        ("common", "minus(NOTHING, lease.reserved)", "NOTHING"),
        ("settle", "lease.state == 'open'", "lease.state"),
    ],
)
async def test_the_crowd_notices(script: str, line: str, instead: str, client: Redis) -> None:
    def mutated(name: str) -> str:
        text = lua_source(name)
        assert name != script or line in text, "the script has changed; change the mutant"
        return text.replace(line, instead) if name == script else text

    source: Callable[[str], str] = mutated
    ledgers: list[Ledger] = [RedisLedger(client, source=source)]
    assert (await Crowd(ledgers, 600, 64).run()).broken
