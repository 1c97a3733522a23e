"""What a replica may spend while the store is away, and how the store hears of it."""

from __future__ import annotations

import asyncio

import pytest

from policies.amounts import Amount
from policies.errors import BudgetDenied, LeaseNotOpen, StoreUnavailable
from policies.later import Later
from policies.ledger import Scopes, new_lease_id
from policies.memory_ledger import InMemoryLedger
from policies.outage import OutageLedger, Unaccounted
from tests.tasks import until

TTL_S = 30.0
DAY_S = 86_400.0
SCOPES: Scopes = [("tenant", {"day": {"tokens": 1000}, "month": {}})]


class Store(InMemoryLedger):
    """A ledger that can be away; then it is unknown what came of a command: nothing, here."""

    def __init__(self, now_s: list[float]) -> None:
        super().__init__(lambda: now_s[0])
        self.away = False

    async def reserve(
        self, lease_id: str, account: str, scopes: Scopes, amount: Amount, ttl_s: float
    ) -> int | None:
        self._check_here()
        return await super().reserve(lease_id, account, scopes, amount, ttl_s)

    async def settle(self, lease_id: str, used: Amount, *, exact: bool = False) -> int | None:
        self._check_here()
        return await super().settle(lease_id, used, exact=exact)

    def _check_here(self) -> None:
        if self.away:
            raise StoreUnavailable("away")


class World:
    def __init__(self, share: float = 1.0) -> None:
        self.now_s = [1_000_000.0]
        self.store = Store(self.now_s)
        self.later = Later()
        self.ledger = OutageLedger(self.store, self.later, share=share, now_s=lambda: self.now_s[0])

    async def spend(self, tokens: int, used: int | None = None) -> str:
        lease_id = new_lease_id("a")
        await self.ledger.reserve(lease_id, "a", SCOPES, Amount(tokens), TTL_S)
        await self.ledger.settle(lease_id, Amount(tokens if used is None else used), exact=True)
        return lease_id

    async def used(self) -> tuple[int, int]:
        gauge = (await self.store.peek("a", SCOPES))[0]
        return gauge.used, gauge.held


async def test_the_cap_is_what_was_left() -> None:
    world = World()
    lease_id = new_lease_id("a")
    await world.store.reserve(lease_id, "a", SCOPES, Amount(700), TTL_S)
    await world.ledger.look("a", SCOPES)
    world.store.away = True
    await world.spend(200)
    with pytest.raises(BudgetDenied) as denied:
        await world.spend(101)
    assert denied.value.remaining == 100
    await world.spend(100)


async def test_a_share_of_it_is_every_replicas() -> None:
    world = World(share=0.25)
    world.store.away = True
    with pytest.raises(BudgetDenied):
        await world.spend(251)
    await world.spend(250)


async def test_another_day_has_its_whole_budget() -> None:
    world = World()
    await world.store.reserve(new_lease_id("a"), "a", SCOPES, Amount(1000), TTL_S)
    await world.ledger.look("a", SCOPES)
    world.store.away = True
    with pytest.raises(BudgetDenied):
        await world.spend(1)
    world.now_s[0] += DAY_S
    await world.spend(1000)
    with pytest.raises(BudgetDenied):
        await world.spend(1)


async def test_what_was_spent_is_told_once_and_the_cap_starts_anew() -> None:
    world = World()
    world.store.away = True
    for _ in range(3):
        await world.spend(100, used=60)
    await world.ledger.look("a", SCOPES)
    world.store.away = False
    await until(lambda: len(world.later) == 0)
    assert await world.used() == (180, 0)
    world.now_s[0] += 2.0
    await world.ledger.look("a", SCOPES)
    world.store.away = True
    await world.spend(820)
    with pytest.raises(BudgetDenied):
        await world.spend(1)


async def test_a_second_outage_before_the_next_look_shares_the_cap_of_the_first() -> None:
    world = World()
    world.store.away = True
    await world.spend(600)
    world.store.away = False
    await until(lambda: len(world.later) == 0)
    world.store.away = True
    with pytest.raises(BudgetDenied):
        await world.spend(401)


async def test_what_still_runs_is_held_in_the_store_when_it_is_back() -> None:
    world = World()
    world.store.away = True
    lease_id = new_lease_id("a")
    await world.ledger.reserve(lease_id, "a", SCOPES, Amount(300), TTL_S)
    world.store.away = False
    await until(lambda: len(world.later) == 0)
    assert await world.used() == (0, 300)
    await world.ledger.extend(lease_id, Amount(50))
    await world.ledger.settle(lease_id, Amount(320), exact=True)
    await until(lambda: len(world.later) == 0)
    assert await world.used() == (320, 0)
    with pytest.raises(LeaseNotOpen):
        await world.ledger.settle(lease_id, Amount(999), exact=True)
    assert await world.used() == (320, 0)


async def test_a_tier_that_was_left_knows_better(monkeypatch: pytest.MonkeyPatch) -> None:
    """It settles in the store by itself, as soon as the lease is there; the router's guess comes after it."""
    monkeypatch.setattr("policies.outage.GRACE_S", 0.2)
    world = World()
    world.store.away = True
    lease_id = new_lease_id("a")
    await world.ledger.reserve(lease_id, "a", SCOPES, Amount(300), TTL_S)
    await world.ledger.settle(lease_id, Amount(0), exact=False)
    world.store.away = False

    async with asyncio.timeout(5):
        while await world.used() != (0, 300):
            await asyncio.sleep(0.001)
    await world.store.settle(lease_id, Amount(77), exact=True)
    await until(lambda: len(world.later) == 0)
    assert await world.used() == (77, 0)


async def test_a_release_costs_nothing() -> None:
    world = World()
    world.store.away = True
    lease_id = new_lease_id("a")
    await world.ledger.reserve(lease_id, "a", SCOPES, Amount(900), TTL_S)
    await world.ledger.release(lease_id)
    await world.spend(1000)
    world.store.away = False
    await until(lambda: len(world.later) == 0)
    assert await world.used() == (1000, 0)


def test_only_so_many_run_unaccounted() -> None:
    running = Unaccounted()
    for _ in range(2):
        running.enter("a", 2)
    with pytest.raises(StoreUnavailable):
        running.enter("a", 2)
    running.enter("b", 2)
    running.leave("a")
    running.enter("a", 2)
    for _ in range(16):
        running.enter("c", None)
    with pytest.raises(StoreUnavailable):
        running.enter("c", None)
