"""The rules of the ledger, for every implementation of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from policies.errors import BudgetDenied, LeaseNotOpen
from policies.ledger import Gauge, Scopes, new_lease_id, tightest
from policies.schema import MAX_TOKENS
from policies.store import connect
from tests.clocked import World, memory_world, redis_world

TTL_S = 30.0
HOUR_S, DAY_S = 3600, 86400


@pytest.fixture(params=["memory", "valkey"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    if request.param == "memory":
        yield memory_world()
        return
    client = connect(request.getfixturevalue("valkey_url"), command_timeout_s=5.0)
    yield await redis_world(client)
    await client.aclose()


def limited(minute: int | None = None, day: int | None = None, month: int | None = None) -> Scopes:
    return [("tenant", {"minute": minute, "day": day, "month": month})]


async def gauge(world: World, window: str = "day", scope: str = "tenant") -> Gauge:
    return (await world.ledger.peek(world.tenant, [(scope, {window: 1000})]))[0]


async def numbers(world: World, window: str = "day", scope: str = "tenant") -> tuple[int, int]:
    found = await gauge(world, window, scope)
    return found.used, found.held


async def reserve(world: World, tokens: int, name: str = "1", scopes: Scopes | None = None) -> int | None:
    scopes = limited(day=1000) if scopes is None else scopes
    return await world.ledger.reserve(world.lease(name), world.tenant, scopes, tokens, TTL_S)


# -- reserve


async def test_a_hold_is_not_a_use(world: World) -> None:
    assert await reserve(world, 300) == 700
    assert await numbers(world) == (0, 300)
    assert await world.ledger.settle(world.lease(), 120) == 880
    assert await numbers(world) == (120, 0)


async def test_used_and_held_together_bound_the_next_hold(world: World) -> None:
    await reserve(world, 400, "1")
    await world.ledger.settle(world.lease("1"), 400)
    await reserve(world, 500, "2")
    with pytest.raises(BudgetDenied) as denied:
        await reserve(world, 101, "3")
    assert (denied.value.scope, denied.value.window, denied.value.remaining) == ("tenant", "day", 100)
    assert await reserve(world, 100, "4") == 0


async def test_a_repeat_holds_nothing_more(world: World) -> None:
    assert await reserve(world, 300) == 700
    assert await reserve(world, 300) == 700
    assert await numbers(world) == (0, 300)


async def test_all_windows_and_scopes_or_none(world: World) -> None:
    scopes = [("tenant", {"minute": 500, "day": 1000, "month": None}), ("key:a", {"day": 200})]
    with pytest.raises(BudgetDenied) as denied:
        await reserve(world, 201, scopes=scopes)
    assert (denied.value.scope, denied.value.remaining) == ("key:a", 200)
    assert all(g.held == 0 for g in await world.ledger.peek(world.tenant, scopes))
    assert await reserve(world, 200, scopes=scopes) == 0
    assert [g.held for g in await world.ledger.peek(world.tenant, scopes)] == [200] * 4


async def test_nothing_limited_is_counted_all_the_same(world: World) -> None:
    assert await reserve(world, 10**9, scopes=limited()) is None
    assert await world.ledger.settle(world.lease(), 10**9) is None
    assert await numbers(world, "month") == (10**9, 0)


async def test_no_scopes_at_all(world: World) -> None:
    assert await reserve(world, 5, scopes=[]) is None
    assert await world.ledger.settle(world.lease(), 5) is None
    assert await world.ledger.peek(world.tenant, []) == ()


async def test_the_wait_is_for_the_last_window_that_is_short(world: World) -> None:
    await world.later(10)
    with pytest.raises(BudgetDenied) as minute:
        await reserve(world, 20, scopes=limited(minute=10, day=1000))
    assert (minute.value.window, minute.value.retry_after_s) == ("minute", 50.0)
    with pytest.raises(BudgetDenied) as month:
        await reserve(world, 20, scopes=limited(day=1000, month=19))
    assert (month.value.window, month.value.retry_after_s) == ("month", 31 * DAY_S - 10.0)


async def test_what_is_left_is_what_a_smaller_request_must_fit(world: World) -> None:
    scopes = [("tenant", {"minute": 10, "day": 19, "month": None}), ("key:a", {"day": 12})]
    with pytest.raises(BudgetDenied) as denied:
        await reserve(world, 20, scopes=scopes)
    assert (denied.value.scope, denied.value.window, denied.value.remaining) == ("tenant", "minute", 10)
    assert denied.value.retry_after_s == DAY_S
    assert await reserve(world, denied.value.remaining, scopes=scopes) == 0


async def test_tenants_do_not_see_one_another(world: World) -> None:
    await reserve(world, 900)
    other = world.tenant + "x"
    if world.client is not None:
        await world.client.set(f"acr:{{{other}}}:holds:now", world.now_ms)
    assert await world.ledger.reserve(f"{other}:1", other, limited(day=1000), 900, TTL_S) == 100


async def test_numbers_are_exact_to_the_last(world: World) -> None:
    scopes = limited(day=MAX_TOKENS)
    assert await reserve(world, MAX_TOKENS - 1, "1", scopes) == 1
    with pytest.raises(BudgetDenied):
        await reserve(world, 2, "2", scopes)
    assert await reserve(world, 1, "3", scopes) == 0
    assert await world.ledger.settle(world.lease("1"), MAX_TOKENS - 1) == 0
    assert await numbers(world) == (MAX_TOKENS - 1, 1)


@pytest.mark.parametrize("tokens", [-1, 1.0, True, "1", MAX_TOKENS + 1, float("nan"), None])
async def test_only_whole_numbers_below_2_to_the_53(world: World, tokens: Any) -> None:
    for call in (
        reserve(world, tokens),
        world.ledger.extend(world.lease(), tokens),
        world.ledger.checkpoint(world.lease(), tokens, TTL_S),
        world.ledger.settle(world.lease(), tokens),
    ):
        with pytest.raises((ValueError, LeaseNotOpen), match=r"whole number|unknown"):
            await call
    assert await numbers(world) == (0, 0)


async def test_a_lease_id_names_its_tenant(world: World) -> None:
    assert new_lease_id("demo") != new_lease_id("demo")
    assert new_lease_id("demo").startswith("demo:")
    with pytest.raises(ValueError, match="not of tenant"):
        await world.ledger.reserve(new_lease_id("other"), world.tenant, limited(day=10), 1, TTL_S)


# -- extend


async def test_an_extension_holds_more_or_changes_nothing(world: World) -> None:
    await reserve(world, 300)
    assert await world.ledger.extend(world.lease(), 500) == 200
    with pytest.raises(BudgetDenied):
        await world.ledger.extend(world.lease(), 201)
    assert await numbers(world) == (0, 800)
    await world.ledger.settle(world.lease(), 700)
    assert await numbers(world) == (700, 0)


async def test_a_named_extension_holds_once(world: World) -> None:
    await reserve(world, 100)
    for _ in range(2):
        assert await world.ledger.extend(world.lease(), 100, part="step-2") == 800
    assert await world.ledger.extend(world.lease(), 100, part="step-3") == 700
    assert await world.ledger.extend(world.lease(), 100) == 600
    assert await world.ledger.extend(world.lease(), 100) == 500


async def test_only_an_open_lease_is_extended(world: World) -> None:
    with pytest.raises(LeaseNotOpen, match="unknown"):
        await world.ledger.extend(world.lease(), 1)
    await reserve(world, 100)
    await world.ledger.settle(world.lease(), 100)
    with pytest.raises(LeaseNotOpen, match="settled"):
        await world.ledger.extend(world.lease(), 1)
    assert await numbers(world) == (100, 0)


# -- settle


async def test_settling_twice_charges_once(world: World) -> None:
    await reserve(world, 300)
    assert await world.ledger.settle(world.lease(), 120) == 880
    assert await world.ledger.settle(world.lease(), 120) == 880
    assert await world.ledger.settle(world.lease(), 999) == 880
    assert await numbers(world) == (120, 0)


async def test_more_than_was_held_is_charged_and_nothing_gets_negative(world: World) -> None:
    await reserve(world, 900)
    assert await world.ledger.settle(world.lease(), 1500) == 0
    assert (await gauge(world)).remaining == 0
    assert await numbers(world) == (1500, 0)


async def test_a_settlement_charges_what_a_lost_run_had_told(world: World) -> None:
    await reserve(world, 300)
    assert await world.ledger.checkpoint(world.lease(), 120, TTL_S) == 120
    assert await world.ledger.settle(world.lease(), 40) == 880
    assert await world.ledger.settle(world.lease(), 500) == 880  # by the run, which was not lost after all
    assert await numbers(world) == (120, 0)


async def test_more_than_the_checkpoint_is_charged_in_full(world: World) -> None:
    await reserve(world, 300)
    await world.ledger.checkpoint(world.lease(), 120, TTL_S)
    await world.ledger.settle(world.lease(), 121)
    assert await numbers(world) == (121, 0)


async def test_who_knows_all_that_was_spent_may_charge_less_than_was_told(world: World) -> None:
    """A checkpoint may have counted a prompt in flight by its upper bound."""
    await reserve(world, 300)
    await world.ledger.checkpoint(world.lease(), 120, TTL_S)
    await world.ledger.settle(world.lease(), 100, exact=True)
    await world.ledger.settle(world.lease(), 40)
    assert await numbers(world) == (100, 0)


async def test_a_checkpoint_returns_the_most_that_was_told(world: World) -> None:
    await reserve(world, 300)
    found = [await world.ledger.checkpoint(world.lease(), used, TTL_S) for used in (0, 50, 20)]
    assert found == [0, 50, 50]
    await world.ledger.settle(world.lease(), 20)
    assert await world.ledger.checkpoint(world.lease(), 90, TTL_S) is None
    assert await numbers(world) == (50, 0)


async def test_settling_the_unknown(world: World) -> None:
    with pytest.raises(LeaseNotOpen, match="unknown"):
        await world.ledger.settle(world.lease(), 10)


async def test_a_settled_id_is_not_reserved_again(world: World) -> None:
    await reserve(world, 300)
    await world.ledger.settle(world.lease(), 10)
    with pytest.raises(LeaseNotOpen, match="settled"):
        await reserve(world, 300)
    assert await numbers(world) == (10, 0)


# -- release


async def test_a_release_frees_and_charges_nothing(world: World) -> None:
    await reserve(world, 300)
    await world.ledger.release(world.lease())
    await world.ledger.release(world.lease())
    assert await numbers(world) == (0, 0)
    with pytest.raises(LeaseNotOpen, match="released"):
        await world.ledger.settle(world.lease(), 10)


async def test_what_was_spent_is_not_released(world: World) -> None:
    await reserve(world, 300)
    await world.ledger.checkpoint(world.lease(), 5, TTL_S)
    with pytest.raises(LeaseNotOpen, match="settle it"):
        await world.ledger.release(world.lease())
    await world.ledger.settle(world.lease(), 5)
    with pytest.raises(LeaseNotOpen, match="settled"):
        await world.ledger.release(world.lease())
    assert await numbers(world) == (5, 0)


async def test_a_reserve_that_runs_after_its_release_holds_nothing(world: World) -> None:
    await world.ledger.release(world.lease())
    with pytest.raises(LeaseNotOpen, match="released"):
        await reserve(world, 300)
    assert await numbers(world) == (0, 0)


# -- expiry


async def test_an_expired_lease_charges_its_checkpoint_and_frees_the_rest(world: World) -> None:
    await reserve(world, 300, "spent")
    await reserve(world, 300, "unspent")
    assert await world.ledger.checkpoint(world.lease("spent"), 120, TTL_S)
    await world.later(TTL_S - 0.001)
    assert await numbers(world) == (0, 600)
    await world.later(0.001)
    assert await numbers(world) == (120, 0)


async def test_a_checkpoint_renews(world: World) -> None:
    await reserve(world, 300)
    for used in (10, 30, 20):
        await world.later(TTL_S - 1)
        assert await world.ledger.checkpoint(world.lease(), used, TTL_S)
    assert await numbers(world) == (0, 300)
    await world.later(TTL_S)
    assert await numbers(world) == (30, 0)  # the largest counts: checkpoints may overtake one another


async def test_a_late_settlement_charges_the_difference(world: World) -> None:
    await reserve(world, 300)
    await world.ledger.checkpoint(world.lease(), 120, TTL_S)
    await world.later(TTL_S)
    assert await numbers(world) == (120, 0)
    assert await world.ledger.settle(world.lease(), 200) == 800
    assert await world.ledger.settle(world.lease(), 200) == 800
    assert await numbers(world) == (200, 0)


async def test_a_late_settlement_gives_nothing_back_unless_it_is_exact(world: World) -> None:
    for name in ("lost", "known"):
        await reserve(world, 300, name)
        await world.ledger.checkpoint(world.lease(name), 120, TTL_S)
    await world.later(TTL_S)
    assert not await world.ledger.checkpoint(world.lease("lost"), 130, TTL_S)
    assert await numbers(world) == (250, 0)
    await world.ledger.settle(world.lease("lost"), 100)
    assert await numbers(world) == (250, 0)
    await world.ledger.settle(world.lease("known"), 100, exact=True)
    assert await numbers(world) == (230, 0)


async def test_a_late_checkpoint_charges_what_came_since(world: World) -> None:
    await reserve(world, 300)
    await world.later(TTL_S)
    assert not await world.ledger.checkpoint(world.lease(), 50, TTL_S)
    assert not await world.ledger.checkpoint(world.lease(), 40, TTL_S)
    assert await numbers(world) == (50, 0)
    await world.ledger.settle(world.lease(), 60)
    assert await numbers(world) == (60, 0)


async def test_an_expired_lease_is_neither_extended_nor_reserved_again(world: World) -> None:
    await reserve(world, 300)
    await world.later(TTL_S)
    with pytest.raises(LeaseNotOpen, match="expired"):
        await world.ledger.extend(world.lease(), 1)
    with pytest.raises(LeaseNotOpen, match="expired"):
        await reserve(world, 300)
    assert await numbers(world) == (0, 0)


async def test_an_expired_lease_makes_room(world: World) -> None:
    await reserve(world, 1000, "1")
    with pytest.raises(BudgetDenied):
        await reserve(world, 1, "2")
    await world.later(TTL_S)
    assert await reserve(world, 1000, "2") == 0


async def test_releasing_an_expired_lease(world: World) -> None:
    await reserve(world, 300, "unspent")
    await reserve(world, 300, "spent")
    await world.ledger.checkpoint(world.lease("spent"), 5, TTL_S)
    await world.later(TTL_S)
    await world.ledger.release(world.lease("unspent"))
    with pytest.raises(LeaseNotOpen, match="settle it"):
        await world.ledger.release(world.lease("spent"))
    assert await numbers(world) == (5, 0)


async def test_a_checkpoint_after_the_end_changes_nothing(world: World) -> None:
    assert not await world.ledger.checkpoint(world.lease("unknown"), 5, TTL_S)
    await reserve(world, 300)
    await world.ledger.settle(world.lease(), 10)
    assert not await world.ledger.checkpoint(world.lease(), 200, TTL_S)
    assert await numbers(world) == (10, 0)


# -- windows


async def test_each_window_starts_anew_at_its_edge(world: World) -> None:
    scopes = limited(minute=100, day=1000, month=10_000)
    for name, passed in (("1", 0), ("2", 60), ("3", DAY_S)):
        await world.later(passed)
        assert await reserve(world, 100, name, scopes) == 0
        await world.ledger.settle(world.lease(name), 100)
    assert [g.used for g in await world.ledger.peek(world.tenant, scopes)] == [100, 100, 300]
    await world.later(31 * DAY_S)
    assert [g.used for g in await world.ledger.peek(world.tenant, scopes)] == [0, 0, 0]


async def test_a_hold_belongs_to_the_window_it_was_made_in(world: World) -> None:
    scopes = limited(minute=100, day=1000)
    await world.later(50)
    await reserve(world, 80, "1", scopes)
    await world.later(20)  # the next minute
    assert (await world.ledger.peek(world.tenant, scopes))[0].held == 0
    assert await reserve(world, 100, "2", scopes) == 0
    assert await world.ledger.settle(world.lease("1"), 80) == 0
    minute, day, _ = await world.ledger.peek(world.tenant, scopes)
    assert (minute.used, minute.held) == (0, 100)
    assert (day.used, day.held) == (80, 100)


async def test_what_is_left_is_of_the_window_now(world: World) -> None:
    scopes = limited(minute=100)
    await reserve(world, 100, "1", scopes)
    await world.later(61)
    assert await world.ledger.settle(world.lease("1"), 100) == 100


async def test_a_late_settlement_long_after_its_windows(world: World) -> None:
    scopes = limited(minute=100, day=1000, month=10_000)
    await reserve(world, 100, "1", scopes)
    await world.later(40 * DAY_S)
    await world.ledger.settle(world.lease("1"), 100)
    assert [g.used for g in await world.ledger.peek(world.tenant, scopes)] == [0, 0, 0]


async def test_gauges_say_what_is_left_and_until_when(world: World) -> None:
    await world.later(1.5)
    await reserve(world, 300, scopes=limited(minute=400, day=1000))
    minute, day, month = await world.ledger.peek(world.tenant, limited(minute=400, day=1000))
    assert (minute.remaining, day.remaining, month.remaining) == (100, 700, None)
    assert minute.reset_s == pytest.approx(58.5)
    assert day.reset_s == pytest.approx(DAY_S - 1.5)
    assert tightest((minute, day, month)) == minute
    assert tightest((month,)) is None
    assert tightest(()) is None
