"""Idempotency-Keys on a real Valkey: strangers, sizes, and a store that is away."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from policies.store import connect
from router.errors import IdempotencyReused, StoreUnavailable
from router.idempotency import RedisIdempotency, Ticket
from tests.servers import ValkeyServer

SECRET = b"s" * 32


@pytest.fixture
def prefix() -> str:
    return f"test:{uuid4().hex}:"


@pytest.fixture
async def client(valkey_url: str) -> AsyncIterator[Redis]:
    client = connect(valkey_url, command_timeout_s=10.0, decode_responses=False)
    yield client
    await client.aclose()


def ticket(key: str = "k", tenant: str = "a") -> Ticket:
    return Ticket(tenant, key, "f")


async def names(client: Redis, prefix: str) -> list[bytes]:
    return sorted([name async for name in client.scan_iter(match=prefix + "*")])


@pytest.mark.parametrize("forged", [b"", b"f\nforged", b"\x00" * 200])
async def test_a_forged_record_is_refused(client: Redis, prefix: str, forged: bytes):
    store = RedisIdempotency(client, SECRET, prefix)
    await store.begin(ticket())
    (name,) = await names(client, prefix)
    await client.set(name, forged)
    with pytest.raises(IdempotencyReused):
        await store.begin(ticket())


async def test_a_record_of_another_tenant_or_key_is_refused(client: Redis, prefix: str):
    store = RedisIdempotency(client, SECRET, prefix)
    theirs = ticket(tenant="b")
    await store.begin(theirs)
    await store.finish(theirs, b"their reply")
    source = next(name for name in await names(client, prefix) if not name.endswith(b":bytes"))
    await store.begin(ticket())
    target = next(
        name for name in await names(client, prefix) if name != source and not name.endswith(b":bytes")
    )
    await client.copy(source, target, replace=True)
    with pytest.raises(IdempotencyReused):
        await store.begin(ticket())


async def test_the_store_learns_neither_tenants_nor_keys(client: Redis, prefix: str):
    store = RedisIdempotency(client, SECRET, prefix)
    mine = Ticket("tenant-name", "secret-key", "f")
    await store.begin(mine)
    await store.finish(mine, b"reply")
    for name in await names(client, prefix):
        assert b"tenant-name" not in name
        assert b"secret-key" not in name
        assert 0 < await client.pttl(name) <= 3_600_000


async def test_a_tenant_cannot_fill_the_store(client: Redis, prefix: str):
    """What is over its share is not kept; the key is spent all the same, and others are not touched."""
    store = RedisIdempotency(client, SECRET, prefix, max_tenant_bytes=3000)
    for number in range(5):
        mine = ticket(f"k{number}")
        await store.begin(mine)
        assert await store.finish(mine, b"x" * 900)
    assert await store.begin(ticket("k0")) == b"x" * 900
    with pytest.raises(IdempotencyReused, match="too large"):
        await store.begin(ticket("k4"))
    other = ticket(tenant="b")
    await store.begin(other)
    await store.finish(other, b"y" * 900)
    assert await store.begin(ticket(tenant="b")) == b"y" * 900
    assert sum([await client.strlen(name) for name in await names(client, prefix)]) < 3000 + 900 + 2000


async def test_without_the_store_there_is_no_promise(prefix: str, tmp_path: Path):
    client = connect(f"unix://{tmp_path}/nobody.sock", decode_responses=False)
    store = RedisIdempotency(client, SECRET, prefix)
    with pytest.raises(StoreUnavailable):
        await store.begin(ticket())
    # The answer is there already: failing to keep it must not take it away.
    assert not await store.finish(ticket(), b"reply")
    assert not await store.finish(ticket(), None)
    await store.renew(ticket())
    await client.aclose()


async def test_a_key_of_another_type_harms_only_itself(client: Redis, prefix: str):
    store = RedisIdempotency(client, SECRET, prefix)
    await store.begin(ticket())
    (name,) = await names(client, prefix)
    await client.delete(name)
    await client.rpush(name, "x")
    with pytest.raises(StoreUnavailable):
        await store.begin(ticket())
    assert await store.begin(ticket("other")) is None


async def test_a_restarted_store_still_knows_the_reply(
    prefix: str, start_valkey: Callable[..., ValkeyServer]
):
    server = start_valkey("--appendonly", "yes", "--appendfsync", "always")
    client = connect(server.url, decode_responses=False)
    store = RedisIdempotency(client, SECRET, prefix)
    mine = ticket()
    await store.begin(mine)
    await store.finish(mine, b"reply")
    server.kill()
    with pytest.raises(StoreUnavailable):
        await store.begin(ticket())
    server.start()
    assert await store.begin(ticket()) == b"reply"  # its scripts are gone with it; nobody notices
    other = ticket("other")
    assert await store.begin(other) is None
    assert await store.finish(other, b"reply")
    await client.aclose()
