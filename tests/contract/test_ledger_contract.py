"""The rules of the ledger, for every implementation of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from policies.amounts import MAX_TOKENS, UNITS, Amount, Unit
from policies.errors import BudgetDenied, LeaseNotOpen
from policies.ledger import Gauge, Scopes, new_lease_id, tightest
from policies.store import connect
from tests.clocked import World, memory_world, redis_world, token_gauges, windows

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
    return [("tenant", windows(minute=minute, day=day, month=month))]


async def gauge(world: World, window: str = "day", scope: str = "tenant") -> Gauge:
    return (await world.ledger.peek(world.tenant, [(scope, windows(**{window: 1000}))]))[0]


async def numbers(world: World, window: str = "day", scope: str = "tenant") -> tuple[int, int]:
    found = await gauge(world, window, scope)
    return found.used, found.held


async def reserve(world: World, tokens: int, name: str = "1", scopes: Scopes | None = None) -> int | None:
    scopes = limited(day=1000) if scopes is None else scopes
    return await world.ledger.reserve(world.lease(name), world.tenant, scopes, Amount(tokens), TTL_S)


# -- reserve


async def test_a_hold_is_not_a_use(world: World) -> None:
    assert await reserve(world, 300) == 700
    assert await numbers(world) == (0, 300)
    assert await world.ledger.settle(world.lease(), Amount(120)) == 880
    assert await numbers(world) == (120, 0)


async def test_used_and_held_together_bound_the_next_hold(world: World) -> None:
    await reserve(world, 400, "1")
    await world.ledger.settle(world.lease("1"), Amount(400))
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
    scopes: Scopes = [("tenant", windows(minute=500, day=1000, month=None)), ("key:a", windows(day=200))]
    with pytest.raises(BudgetDenied) as denied:
        await reserve(world, 201, scopes=scopes)
    assert (denied.value.scope, denied.value.remaining) == ("key:a", 200)
    assert all(g.held == 0 for g in await token_gauges(world.ledger, world.tenant, scopes))
    assert await reserve(world, 200, scopes=scopes) == 0
    assert [g.held for g in await token_gauges(world.ledger, world.tenant, scopes)] == [200] * 4


async def test_nothing_limited_is_counted_all_the_same(world: World) -> None:
    assert await reserve(world, 10**9, scopes=limited()) is None
    assert await world.ledger.settle(world.lease(), Amount(10**9)) is None
    assert await numbers(world, "month") == (10**9, 0)


async def test_no_scopes_at_all(world: World) -> None:
    assert await reserve(world, 5, scopes=[]) is None
    assert await world.ledger.settle(world.lease(), Amount(5)) is None
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
    scopes: Scopes = [("tenant", windows(minute=10, day=19, month=None)), ("key:a", windows(day=12))]
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
    assert await world.ledger.reserve(f"{other}:1", other, limited(day=1000), Amount(900), TTL_S) == 100


async def test_numbers_are_exact_to_the_last(world: World) -> None:
    scopes = limited(day=MAX_TOKENS)
    assert await reserve(world, MAX_TOKENS - 1, "1", scopes) == 1
    with pytest.raises(BudgetDenied):
        await reserve(world, 2, "2", scopes)
    assert await reserve(world, 1, "3", scopes) == 0
    assert await world.ledger.settle(world.lease("1"), Amount(MAX_TOKENS - 1)) == 0
    assert await numbers(world) == (MAX_TOKENS - 1, 1)


@pytest.mark.parametrize("number", [-1, 1.0, True, "1", MAX_TOKENS + 1, float("nan"), None])
@pytest.mark.parametrize("unit", UNITS)
async def test_only_whole_numbers_below_2_to_the_53(world: World, number: Any, unit: str) -> None:
    with pytest.raises(ValueError, match="whole number"):
        Amount(**{unit: number})
    with pytest.raises(ValueError, match="whole number"):
        await reserve(world, 1, scopes=[("tenant", {"day": {unit: number}})])  # type: ignore[dict-item]
    assert await numbers(world) == (0, 0)


async def test_a_lease_id_names_its_tenant(world: World) -> None:
    assert new_lease_id("demo") != new_lease_id("demo")
    assert new_lease_id("demo").startswith("demo:")
    with pytest.raises(ValueError, match="not of account"):
        await world.ledger.reserve(new_lease_id("other"), world.tenant, limited(day=10), Amount(1), TTL_S)


# -- extend


async def test_an_extension_holds_more_or_changes_nothing(world: World) -> None:
    await reserve(world, 300)
    assert await world.ledger.extend(world.lease(), Amount(500)) == 200
    with pytest.raises(BudgetDenied):
        await world.ledger.extend(world.lease(), Amount(201))
    assert await numbers(world) == (0, 800)
    await world.ledger.settle(world.lease(), Amount(700))
    assert await numbers(world) == (700, 0)


async def test_a_named_extension_holds_once(world: World) -> None:
    await reserve(world, 100)
    for _ in range(2):
        assert await world.ledger.extend(world.lease(), Amount(100), part="step-2") == 800
    assert await world.ledger.extend(world.lease(), Amount(100), part="step-3") == 700
    assert await world.ledger.extend(world.lease(), Amount(100)) == 600
    assert await world.ledger.extend(world.lease(), Amount(100)) == 500


async def test_only_an_open_lease_is_extended(world: World) -> None:
    with pytest.raises(LeaseNotOpen, match="unknown"):
        await world.ledger.extend(world.lease(), Amount(1))
    await reserve(world, 100)
    await world.ledger.settle(world.lease(), Amount(100))
    with pytest.raises(LeaseNotOpen, match="settled"):
        await world.ledger.extend(world.lease(), Amount(1))
    assert await numbers(world) == (100, 0)


# -- settle


async def test_settling_twice_charges_once(world: World) -> None:
    await reserve(world, 300)
    assert await world.ledger.settle(world.lease(), Amount(120)) == 880
    assert await world.ledger.settle(world.lease(), Amount(120)) == 880
    assert await world.ledger.settle(world.lease(), Amount(999)) == 880
    assert await numbers(world) == (120, 0)


async def test_more_than_was_held_is_charged_and_nothing_gets_negative(world: World) -> None:
    await reserve(world, 900)
    assert await world.ledger.settle(world.lease(), Amount(1500)) == 0
    assert (await gauge(world)).remaining == 0
    assert await numbers(world) == (1500, 0)


async def test_a_settlement_charges_what_a_lost_run_had_told(world: World) -> None:
    await reserve(world, 300)
    assert await world.ledger.checkpoint(world.lease(), Amount(120), TTL_S) == Amount(120)
    assert await world.ledger.settle(world.lease(), Amount(40)) == 880
    assert await world.ledger.settle(world.lease(), Amount(500)) == 880  # by a run that was not lost
    assert await numbers(world) == (120, 0)


async def test_more_than_the_checkpoint_is_charged_in_full(world: World) -> None:
    await reserve(world, 300)
    await world.ledger.checkpoint(world.lease(), Amount(120), TTL_S)
    await world.ledger.settle(world.lease(), Amount(121))
    assert await numbers(world) == (121, 0)


async def test_who_knows_all_that_was_spent_may_charge_less_than_was_told(world: World) -> None:
    """A checkpoint may have counted a prompt in flight by its upper bound."""
    await reserve(world, 300)
    await world.ledger.checkpoint(world.lease(), Amount(120), TTL_S)
    await world.ledger.settle(world.lease(), Amount(100), exact=True)
    await world.ledger.settle(world.lease(), Amount(40))
    assert await numbers(world) == (100, 0)


async def test_a_checkpoint_returns_the_most_that_was_told(world: World) -> None:
    await reserve(world, 300)
    found = [await world.ledger.checkpoint(world.lease(), Amount(used), TTL_S) for used in (0, 50, 20)]
    assert found == [Amount(0), Amount(50), Amount(50)]
    await world.ledger.settle(world.lease(), Amount(20))
    assert await world.ledger.checkpoint(world.lease(), Amount(90), TTL_S) is None
    assert await numbers(world) == (50, 0)


async def test_settling_the_unknown(world: World) -> None:
    with pytest.raises(LeaseNotOpen, match="unknown"):
        await world.ledger.settle(world.lease(), Amount(10))


async def test_a_settled_id_is_not_reserved_again(world: World) -> None:
    await reserve(world, 300)
    await world.ledger.settle(world.lease(), Amount(10))
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
        await world.ledger.settle(world.lease(), Amount(10))


async def test_what_was_spent_is_not_released(world: World) -> None:
    await reserve(world, 300)
    await world.ledger.checkpoint(world.lease(), Amount(5), TTL_S)
    with pytest.raises(LeaseNotOpen, match="settle it"):
        await world.ledger.release(world.lease())
    await world.ledger.settle(world.lease(), Amount(5))
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
    assert await world.ledger.checkpoint(world.lease("spent"), Amount(120), TTL_S)
    await world.later(TTL_S - 0.001)
    assert await numbers(world) == (0, 600)
    await world.later(0.001)
    assert await numbers(world) == (120, 0)


async def test_a_checkpoint_renews(world: World) -> None:
    await reserve(world, 300)
    for used in (10, 30, 20):
        await world.later(TTL_S - 1)
        assert await world.ledger.checkpoint(world.lease(), Amount(used), TTL_S)
    assert await numbers(world) == (0, 300)
    await world.later(TTL_S)
    assert await numbers(world) == (30, 0)  # the largest counts: checkpoints may overtake one another


async def test_a_late_settlement_charges_the_difference(world: World) -> None:
    await reserve(world, 300)
    await world.ledger.checkpoint(world.lease(), Amount(120), TTL_S)
    await world.later(TTL_S)
    assert await numbers(world) == (120, 0)
    assert await world.ledger.settle(world.lease(), Amount(200)) == 800
    assert await world.ledger.settle(world.lease(), Amount(200)) == 800
    assert await numbers(world) == (200, 0)


async def test_a_late_settlement_gives_nothing_back_unless_it_is_exact(world: World) -> None:
    for name in ("lost", "known"):
        await reserve(world, 300, name)
        await world.ledger.checkpoint(world.lease(name), Amount(120), TTL_S)
    await world.later(TTL_S)
    assert not await world.ledger.checkpoint(world.lease("lost"), Amount(130), TTL_S)
    assert await numbers(world) == (250, 0)
    await world.ledger.settle(world.lease("lost"), Amount(100))
    assert await numbers(world) == (250, 0)
    await world.ledger.settle(world.lease("known"), Amount(100), exact=True)
    assert await numbers(world) == (230, 0)


async def test_a_late_checkpoint_charges_what_came_since(world: World) -> None:
    await reserve(world, 300)
    await world.later(TTL_S)
    assert not await world.ledger.checkpoint(world.lease(), Amount(50), TTL_S)
    assert not await world.ledger.checkpoint(world.lease(), Amount(40), TTL_S)
    assert await numbers(world) == (50, 0)
    await world.ledger.settle(world.lease(), Amount(60))
    assert await numbers(world) == (60, 0)


async def test_an_expired_lease_is_neither_extended_nor_reserved_again(world: World) -> None:
    await reserve(world, 300)
    await world.later(TTL_S)
    with pytest.raises(LeaseNotOpen, match="expired"):
        await world.ledger.extend(world.lease(), Amount(1))
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
    await world.ledger.checkpoint(world.lease("spent"), Amount(5), TTL_S)
    await world.later(TTL_S)
    await world.ledger.release(world.lease("unspent"))
    with pytest.raises(LeaseNotOpen, match="settle it"):
        await world.ledger.release(world.lease("spent"))
    assert await numbers(world) == (5, 0)


async def test_a_checkpoint_after_the_end_changes_nothing(world: World) -> None:
    assert not await world.ledger.checkpoint(world.lease("unknown"), Amount(5), TTL_S)
    await reserve(world, 300)
    await world.ledger.settle(world.lease(), Amount(10))
    assert not await world.ledger.checkpoint(world.lease(), Amount(200), TTL_S)
    assert await numbers(world) == (10, 0)


# -- windows


async def test_each_window_starts_anew_at_its_edge(world: World) -> None:
    scopes = limited(minute=100, day=1000, month=10_000)
    for name, passed in (("1", 0), ("2", 60), ("3", DAY_S)):
        await world.later(passed)
        assert await reserve(world, 100, name, scopes) == 0
        await world.ledger.settle(world.lease(name), Amount(100))
    assert [g.used for g in await token_gauges(world.ledger, world.tenant, scopes)] == [100, 100, 300]
    await world.later(31 * DAY_S)
    assert [g.used for g in await token_gauges(world.ledger, world.tenant, scopes)] == [0, 0, 0]


async def test_a_hold_belongs_to_the_window_it_was_made_in(world: World) -> None:
    scopes = limited(minute=100, day=1000)
    await world.later(50)
    await reserve(world, 80, "1", scopes)
    await world.later(20)  # the next minute
    assert (await token_gauges(world.ledger, world.tenant, scopes))[0].held == 0
    assert await reserve(world, 100, "2", scopes) == 0
    assert await world.ledger.settle(world.lease("1"), Amount(80)) == 0
    minute, day, _ = await token_gauges(world.ledger, world.tenant, scopes)
    assert (minute.used, minute.held) == (0, 100)
    assert (day.used, day.held) == (80, 100)


async def test_what_is_left_is_of_the_window_now(world: World) -> None:
    scopes = limited(minute=100)
    await reserve(world, 100, "1", scopes)
    await world.later(61)
    assert await world.ledger.settle(world.lease("1"), Amount(100)) == 100


async def test_a_late_settlement_long_after_its_windows(world: World) -> None:
    scopes = limited(minute=100, day=1000, month=10_000)
    await reserve(world, 100, "1", scopes)
    await world.later(40 * DAY_S)
    await world.ledger.settle(world.lease("1"), Amount(100))
    assert [g.used for g in await token_gauges(world.ledger, world.tenant, scopes)] == [0, 0, 0]


async def test_gauges_say_what_is_left_and_until_when(world: World) -> None:
    await world.later(1.5)
    await reserve(world, 300, scopes=limited(minute=400, day=1000))
    minute, day, month = await token_gauges(world.ledger, world.tenant, limited(minute=400, day=1000))
    assert (minute.remaining, day.remaining, month.remaining) == (100, 700, None)
    assert minute.reset_s == pytest.approx(58.5)
    assert day.reset_s == pytest.approx(DAY_S - 1.5)
    assert tightest((minute, day, month)) == minute
    assert tightest((month,)) is None
    assert tightest(()) is None


# -- units


def scoped(**limits: int) -> Scopes:
    return [("tenant", {"day": cast(dict[Unit, int], limits)})]


async def spent(world: World, scopes: Scopes) -> dict[tuple[str, str], tuple[int, int]]:
    found = await world.ledger.peek(world.tenant, scopes)
    return {(gauge.scope, gauge.unit): (gauge.used, gauge.held) for gauge in found}


async def hold(world: World, amount: Amount, scopes: Scopes, name: str = "1") -> int | None:
    return await world.ledger.reserve(world.lease(name), world.tenant, scopes, amount, TTL_S)


async def test_every_unit_is_held_settled_and_freed(world: World) -> None:
    scopes = scoped(tokens=1000, gpu_ms=500, micro_usd=9000)
    assert await hold(world, Amount(300, 200, 8000), scopes) == 700
    assert await spent(world, scopes) == {
        ("tenant", "tokens"): (0, 300),
        ("tenant", "gpu_ms"): (0, 200),
        ("tenant", "micro_usd"): (0, 8000),
    }
    assert await world.ledger.extend(world.lease(), Amount(100, 10, 1000)) == 600
    assert await world.ledger.settle(world.lease(), Amount(120, 33, 4)) == 880
    assert await spent(world, scopes) == {
        ("tenant", "tokens"): (120, 0),
        ("tenant", "gpu_ms"): (33, 0),
        ("tenant", "micro_usd"): (4, 0),
    }


@pytest.mark.parametrize("unit", UNITS)
async def test_each_unit_alone_refuses_and_is_named(world: World, unit: Unit) -> None:
    scopes = scoped(**{unit: 100})
    await hold(world, Amount(**{unit: 60}), scopes, "1")
    with pytest.raises(BudgetDenied) as denied:
        await hold(world, Amount(50, 50, 50), scopes, "2")
    assert (denied.value.scope, denied.value.window, denied.value.unit) == ("tenant", "day", unit)
    assert (denied.value.remaining, denied.value.left) == (40, {unit: 40})
    with pytest.raises(BudgetDenied):
        await world.ledger.extend(world.lease("1"), Amount(**{unit: 41}))
    await world.ledger.extend(world.lease("1"), Amount(**{unit: 40}))
    found = await spent(world, scopes)
    assert found["tenant", unit] == (0, 100)
    assert sum(held for _, held in found.values()) == 100


async def test_the_shortest_unit_is_the_one_that_covers_the_smallest_part(world: World) -> None:
    scopes: Scopes = [
        ("organisation", {"month": {"micro_usd": 900}}),
        ("tenant", {"minute": {"tokens": 50}, "day": {"gpu_ms": 30}}),
        ("key:a", {"day": {"micro_usd": 500}}),
    ]
    with pytest.raises(BudgetDenied) as denied:
        await hold(world, Amount(100, 100, 1000), scopes)  # 50 %, 30 %, 50 % and 90 % are there
    assert (denied.value.scope, denied.value.window, denied.value.unit) == ("tenant", "day", "gpu_ms")
    assert denied.value.left == {"tokens": 50, "gpu_ms": 30, "micro_usd": 500}
    assert "0.03 GPU-seconds left" in str(denied.value)
    assert all(held == 0 for _, held in (await spent(world, scopes)).values())
    assert await hold(world, Amount(50, 30, 500), scopes) == 0


async def test_what_is_not_asked_for_is_not_short(world: World) -> None:
    scopes = scoped(tokens=1000, gpu_ms=10)
    await hold(world, Amount(1, 10), scopes, "1")
    await world.ledger.settle(world.lease("1"), Amount(1, 50))
    assert await hold(world, Amount(tokens=5), scopes, "2") == 994
    with pytest.raises(BudgetDenied, match="0 GPU-seconds left"):
        await hold(world, Amount(5, 1), scopes, "3")


async def test_an_expired_lease_charges_every_unit_of_its_checkpoint(world: World) -> None:
    scopes = scoped(tokens=1000, gpu_ms=1000, micro_usd=1000)
    await hold(world, Amount(300, 300, 300), scopes)
    assert await world.ledger.checkpoint(world.lease(), Amount(10, 0, 7), TTL_S) == Amount(10, 0, 7)
    assert await world.ledger.checkpoint(world.lease(), Amount(5, 9, 0), TTL_S) == Amount(10, 9, 7)
    await world.later(TTL_S)
    assert [used for used, _ in (await spent(world, scopes)).values()] == [10, 9, 7]
    assert await world.ledger.checkpoint(world.lease(), Amount(0, 12, 0), TTL_S) is None
    assert await world.ledger.settle(world.lease(), Amount(20, 0, 0)) == 980
    assert await spent(world, scopes) == {
        ("tenant", "tokens"): (20, 0),
        ("tenant", "gpu_ms"): (12, 0),
        ("tenant", "micro_usd"): (7, 0),
    }


@pytest.mark.parametrize("unit", UNITS)
async def test_what_was_spent_in_any_unit_is_not_released(world: World, unit: Unit) -> None:
    await hold(world, Amount(10, 10, 10), scoped(tokens=100))
    await world.ledger.checkpoint(world.lease(), Amount(**{unit: 1}), TTL_S)
    with pytest.raises(LeaseNotOpen, match="settle it"):
        await world.ledger.release(world.lease())


async def test_three_scopes_in_one_step(world: World) -> None:
    scopes: Scopes = [
        ("organisation", {"month": {"tokens": 1000, "micro_usd": 1000}}),
        ("tenant:a", windows(minute=None, day=500)),
        ("key:a:k1", {"day": {"tokens": 300, "gpu_ms": 50}}),
    ]
    assert await hold(world, Amount(200, 40, 900), scopes, "1") == 100
    for amount in (Amount(101), Amount(0, 11), Amount(0, 0, 101)):
        with pytest.raises(BudgetDenied):
            await hold(world, amount, scopes, "2")
        held = [held for _, held in (await spent(world, scopes)).values()]
        assert held == [200, 40, 900] * 3  # nothing of the refused one in any scope
    other: Scopes = [scopes[0], ("tenant:b", windows(day=5000))]
    with pytest.raises(BudgetDenied) as denied:
        await hold(world, Amount(801), other, "3")
    assert (denied.value.scope, denied.value.window, denied.value.remaining) == ("organisation", "month", 800)
    assert await hold(world, Amount(800), other, "3") == 0


async def test_units_and_windows_that_do_not_exist(world: World) -> None:
    bad: list[Any] = [[("tenant", {"week": {"tokens": 1}})], [("tenant", {"day": {"joules": 1}})]]
    for scopes in bad:
        with pytest.raises(ValueError, match="there are"):
            await hold(world, Amount(1), scopes)
        with pytest.raises(ValueError, match="there are"):
            await world.ledger.peek(world.tenant, scopes)
