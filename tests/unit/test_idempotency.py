from __future__ import annotations

import pytest

from router.errors import IdempotencyInFlight, IdempotencyReused, StoreUnavailable
from router.idempotency import IN_FLIGHT_S, KEPT_S, MemoryIdempotency, RedisIdempotency


class FakeClock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


async def test_first_in_flight_then_told():
    store = MemoryIdempotency()
    assert await store.begin("a", "k", "f") is None
    with pytest.raises(IdempotencyInFlight):
        await store.begin("a", "k", "f")
    await store.finish("a", "k", "f", b"reply")
    assert await store.begin("a", "k", "f") == b"reply"


async def test_another_body_is_refused_in_flight_and_after():
    store = MemoryIdempotency()
    await store.begin("a", "k", "f")
    with pytest.raises(IdempotencyReused):
        await store.begin("a", "k", "g")
    await store.finish("a", "k", "f", b"reply")
    with pytest.raises(IdempotencyReused):
        await store.begin("a", "k", "g")


async def test_tenants_do_not_share_keys():
    store = MemoryIdempotency()
    await store.begin("a", "k", "f")
    assert await store.begin("b", "k", "g") is None


async def test_a_key_given_back_is_free():
    store = MemoryIdempotency()
    await store.begin("a", "k", "f")
    await store.finish("a", "k", "f", None)
    assert await store.begin("a", "k", "g") is None


async def test_marks_and_replies_expire():
    clock = FakeClock()
    store = MemoryIdempotency(clock=clock)
    await store.begin("a", "k", "f")
    clock.now_s = IN_FLIGHT_S
    assert await store.begin("a", "k", "f") is None
    await store.finish("a", "k", "f", b"reply")
    clock.now_s += KEPT_S - 1
    assert await store.begin("a", "k", "f") == b"reply"
    clock.now_s += 1
    assert await store.begin("a", "k", "f") is None


async def test_old_replies_go_before_what_is_in_flight():
    store = MemoryIdempotency(max_records=2)
    await store.begin("a", "running", "f")
    await store.begin("a", "done", "f")
    await store.finish("a", "done", "f", b"reply")
    await store.begin("a", "new", "f")
    assert await store.begin("a", "done", "f") is None
    with pytest.raises(IdempotencyInFlight):
        await store.begin("a", "running", "f")


class DeadClient:
    async def set(self, *args: object, **kwargs: object) -> None:
        raise ConnectionError("refused")

    async def delete(self, *args: object) -> None:
        raise ConnectionError("refused")


async def test_without_its_store_nobody_promises_at_most_once():
    store = RedisIdempotency(DeadClient(), b"s" * 32)
    with pytest.raises(StoreUnavailable):
        await store.begin("a", "k", "f")
    # The answer is there already: failing to keep it must not take it away.
    await store.finish("a", "k", "f", b"reply")
    await store.finish("a", "k", "f", None)
