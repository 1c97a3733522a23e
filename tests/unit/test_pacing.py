from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.amounts import Amount
from policies.errors import PolicyFileError
from policies.limit_spec import Pacing
from policies.loader import parse_policy
from policies.memory_ledger import InMemoryLedger
from policies.pacing import EVEN, elapsed_share, pace, tightest_pace
from router.background import Background
from router.paces import Paces
from tests.service import ACME, HARD, POLICY, request, start_service

RULE = Pacing()
Shares = st.floats(0, 1)


@given(Shares, Shares)
def test_with_an_ample_budget_nothing_changes(used: float, elapsed: float) -> None:
    """On schedule or behind it the policy's own cost weight holds, unless min_factor says otherwise."""
    if used <= elapsed:
        assert pace(RULE, used, elapsed).factor == 1.0


@given(Shares, Shares, Shares)
def test_who_has_spent_more_pays_more(used: float, more: float, elapsed: float) -> None:
    low, high = sorted((used, more))
    assert 1.0 <= pace(RULE, low, elapsed).factor <= pace(RULE, high, elapsed).factor <= RULE.max_factor


@given(Shares, Shares)
def test_the_bounds_hold(used: float, elapsed: float) -> None:
    rule = Pacing(min_factor=0.5, max_factor=4.0, strength=3.0)
    assert 0.5 <= pace(rule, used, elapsed).factor <= 4.0


def test_the_edges_of_a_window() -> None:
    assert pace(RULE, 0.0, 0.0).factor == 1.0
    assert pace(RULE, 1.0, 0.5).factor == RULE.max_factor
    assert pace(RULE, 1.5, 0.5).factor == RULE.max_factor  # a late settlement may go beyond
    assert pace(Pacing(min_factor=0.25), 0.1, 0.9).factor == 0.25
    assert pace(RULE, 0.4, 1.0).factor == 1.0


def test_strength_is_how_hard_it_steers() -> None:
    factors = [pace(Pacing(strength=s), 0.55, 0.5).factor for s in (0.5, 1.0, 2.0)]
    assert factors == sorted(factors)
    assert factors[1] == pytest.approx((0.45 / 0.5) ** -16)


def test_the_unit_that_is_furthest_ahead_decides() -> None:
    one = tightest_pace(RULE, [("tokens", 10, 100), ("micro_usd", 60, 100), ("gpu_ms", 50, 100)], 0.5)
    assert one.unit == "micro_usd"
    assert tightest_pace(RULE, [], 0.5) == EVEN
    assert tightest_pace(RULE, [("tokens", 0, 0)], 0.5).factor == RULE.max_factor  # a budget of nothing


@pytest.mark.parametrize(
    ("now", "reset_s", "share"),
    [
        ("2032-02-10T00:00:00", 20 * 86400, 9 / 29),  # a leap year
        ("2033-02-15T00:00:00", 14 * 86400, 14 / 28),
        ("2032-12-31T23:00:00", 3600, 1 - 3600 / (31 * 86400)),
        ("2033-01-01T00:30:00", 3600, 1 - 3600 / (31 * 86400)),  # a clock that is an hour and a half ahead
        ("2032-12-31T23:00:00", 31 * 86400 - 60, 60 / (31 * 86400)),  # and one that is an hour behind
    ],
)
def test_how_much_of_a_month_is_over(now: str, reset_s: float, share: float) -> None:
    assert elapsed_share("month", reset_s, datetime.fromisoformat(now).replace(tzinfo=UTC)) == pytest.approx(
        share
    )


def test_how_much_of_a_day_is_over() -> None:
    assert elapsed_share("day", 86400) == 0.0
    assert elapsed_share("day", 21600) == 0.75
    assert elapsed_share("day", -1) == 1.0
    assert elapsed_share("minute", 15) == 0.75


# -- in the policy


def with_pacing(text: str) -> str:
    return POLICY.replace("    default_effort: high", f"    pacing: {text}\n    default_effort: high")


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("{window: week}", "pacing.window"),
        ("{strength: 0}", "pacing.strength"),
        ("{strength: -1}", "pacing.strength"),
        ("{strength: .nan}", "pacing.strength"),
        ("{max_factor: 0.5}", "pacing.max_factor"),
        ("{min_factor: 0}", "pacing.min_factor"),
        ("{min_factor: 2}", "pacing.min_factor"),
        ("{min_factor: 1.0, max_factor: 1.0}", "pacing.max_factor"),
        ("{speed: 1}", "pacing.speed"),
        ("true", "pacing"),
    ],
)
def test_bad_rules_are_refused_with_line_and_field(text: str, field: str) -> None:
    with pytest.raises(PolicyFileError) as refused:
        parse_policy(with_pacing(text), "p.yaml")
    assert refused.value.field == f"tenants.acme.{field}"
    assert refused.value.line == with_pacing(text).splitlines().index(f"    pacing: {text}") + 1


# -- in the service


async def test_the_pace_is_looked_up_once_a_second_and_keeps_nobody_waiting() -> None:
    service = await start_service(policy=with_pacing("{}"))
    looks, now = 0, [100.0]
    peek = service.ledger.peek

    async def counted(*args: object) -> object:
        nonlocal looks
        looks += 1
        return await peek(*args)  # type: ignore[arg-type]

    service.ledger.peek = counted  # type: ignore[assignment]
    background = Background()
    paces = Paces(service.ledger, background, lambda: now[0])
    tenant = service.policy.tenants["acme"]
    for _ in range(50):
        assert paces.of(tenant) == EVEN  # the answer is not there yet
    await background.aclose()
    assert looks == 1
    assert paces.of(service.policy.tenants["cheap"]) == EVEN  # it has no pacing, and is not looked up
    now[0] += 1.0
    paces.of(tenant)
    await background.aclose()
    assert looks == 2


async def test_a_budget_ahead_of_its_day_buys_less_and_says_so() -> None:
    """Noon: the first request finds an even pace, and one that follows the look-up pays by what is spent."""
    noon_s = 1_956_528_000.0 + 43_200
    policy = with_pacing("{}").replace("minute: 20000, day: 100000", "day: 20000")
    ledger = InMemoryLedger(lambda: noon_s)
    service = await start_service(policy=policy, p={**HARD, "direct/direct": 0.7}, ledger=ledger)
    acme = service.policy.tenants["acme"]
    before = await service.pipeline.complete(ACME, request())
    assert (before.receipt.tier, before.receipt.degraded) == ("consistency", False)
    await ledger.reserve("acme:spent", "acme", acme.scopes(), Amount(15_000), 60)
    await ledger.settle("acme:spent", Amount(15_000))
    service.pipeline._paces._known.clear()
    service.pipeline._paces.of(acme)
    await service.pipeline._background.aclose()
    after = await service.pipeline.complete(ACME, request("again"))
    assert any("of the day's budget is spent or held after 50%" in r for r in after.receipt.reasons)
    assert (after.receipt.tier, after.receipt.degraded) == ("direct", True)
    said = await service.pipeline.explain(ACME, request())
    assert any("of the day's budget is spent or held after 50%" in r for r in said["plan"].reasons)
