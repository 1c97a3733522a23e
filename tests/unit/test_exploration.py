"""Starts drawn by chance: how often, among which arms, with which propensity, and when never."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.conditions import Conditions, SpentShare, TierState
from policies.errors import BudgetExhausted, PolicyFileError
from policies.loader import parse_policy
from policies.plan import Ask, Plan
from policies.planner import make_plan
from policies.schema import TenantPolicy
from tests.unit.test_planner import ALL_TIERS, EASY, HARD, POLICY, tenant_with

pytestmark = pytest.mark.unit

RATE = 0.2


def explorer(rate: float = RATE, **changes: Any) -> TenantPolicy:
    return tenant_with(exploration={"rate": rate}, **changes)


def plan(draw: float | None, *, tenant: TenantPolicy | None = None, **more: Any) -> Plan:
    now = more.pop("now", Conditions())
    remaining = more.pop("remaining", None)
    available = more.pop("available", ALL_TIERS)
    estimates = more.pop("estimates", HARD)
    return make_plan(
        Ask(**{"prompt_tokens": 100, **more}),
        tenant or explorer(),
        POLICY,
        estimates,
        remaining_tokens=remaining,
        available_tiers=available,
        now=now,
        draw=draw,
    )


def draws(count: int = 20_000) -> list[float]:
    """Evenly over [0, 1), so that the share below a rate is exact."""
    return [i / count for i in range(count)]


def observed(count: int = 20_000, **more: Any) -> dict[str, float]:
    started = Counter(plan(draw, **more).start.arm for draw in draws(count))
    return {arm: number / count for arm, number in started.items()}


def test_nothing_is_drawn_at_rate_0_which_is_the_default() -> None:
    assert POLICY.tenants["demo"].exploration.rate == 0.0
    sure = plan(None)
    assert plan(0.0, tenant=tenant_with()) == sure
    assert (sure.starts, sure.explored) == ({sure.start.arm: 1.0}, False)


def test_without_a_draw_nothing_is_left_to_chance() -> None:
    made = plan(None)
    assert (made.starts, made.explored) == ({made.start.arm: 1.0}, False)


def test_starts_come_as_often_as_their_propensities_say() -> None:
    said = plan(0.99).starts
    own = plan(None).start.arm
    assert sum(said.values()) == pytest.approx(1.0, abs=1e-12)
    assert len(said) == 5  # one that asks for more samples than the effort allows is cut, not left out
    assert said[own] == pytest.approx(1 - RATE + RATE / 5)
    found = observed()
    assert set(found) == set(said)
    for arm, share in said.items():
        # 4,000 draws explore: three standard deviations of a fifth of them
        assert found[arm] == pytest.approx(share, abs=3 * RATE * (0.16 / 4000) ** 0.5)


def test_every_plan_of_a_request_tells_the_same_propensities() -> None:
    said = {tuple(sorted(plan(draw).starts.items())) for draw in draws(500)}
    assert len(said) == 1


def test_a_drawn_start_says_so_and_the_policys_own_choice_does_not() -> None:
    own = plan(RATE)
    assert not own.explored
    assert not any("by chance" in reason for reason in own.reasons)
    drawn = [plan(draw) for draw in draws(2_000) if draw < RATE]
    assert all(each.explored for each in drawn)
    other = next(each for each in drawn if each.start.arm != own.start.arm)
    assert any(
        f"{other.start.arm} (" in reason and f"instead of {own.start.arm}" in reason
        for reason in other.reasons
        if "drawn by chance" in reason
    )
    assert not other.degraded


def test_a_drawn_start_has_its_ladder_and_keeps_within_the_ceilings() -> None:
    for draw in (draw for draw in draws(200) if draw < RATE):
        made = plan(draw, max_total_tokens=30_000)
        assert sum(step.budget_tokens for step in made.steps) <= 30_000
    cheap = next(made for draw in draws(2_000) if (made := plan(draw)).start.arm == "direct/direct")
    assert len(cheap.steps) > 1


@pytest.mark.parametrize(
    "ask",
    [
        {"tier": "consistency"},
        {"strategy": "self_consistency"},
        {"min_quality": 0.5},
        {"min_quality": 0.0},
        {"allow_degrade": False},
        {"choices": 2},
    ],
)
def test_what_a_caller_pinned_is_never_drawn(ask: dict[str, Any]) -> None:
    sure = plan(None, **ask)
    assert all(plan(draw, **ask) == sure for draw in draws(200))
    assert sure.starts == {sure.start.arm: 1.0}


def test_a_tenant_that_may_not_be_given_less_explores_only_where_the_request_allows_it() -> None:
    strict = explorer(allow_degrade=False)
    assert not plan(0.0, tenant=strict).explored
    assert plan(0.0, tenant=strict, allow_degrade=True).explored


def test_without_predictions_there_is_nothing_to_draw() -> None:
    made = plan(0.0, estimates={})
    assert (made.explored, made.starts) == (False, {made.start.arm: 1.0})


def test_effort_tiers_and_spent_shares_bound_what_is_drawn() -> None:
    assert set(plan(0.5, effort="none").starts) == {"direct/direct", "direct/cot"}
    tenant = explorer(tiers=["direct", "consistency"])
    assert not any(arm.startswith("search") for arm in plan(0.5, tenant=tenant).starts)
    assert set(observed(500, tenant=tenant)) <= set(plan(0.5, tenant=tenant).starts)
    spent = Conditions(spent_shares={"search": SpentShare(0.2, "day", 0, 60.0)})
    assert not any(arm.startswith("search") for arm in plan(0.5, now=spent).starts)


def test_tiers_that_are_away_ill_or_too_slow_are_not_drawn() -> None:
    def tiers(made: Plan) -> set[str]:
        return {arm.split("/")[0] for arm in made.starts}

    assert tiers(plan(0.5, available=frozenset({"direct", "search"}))) == {"direct", "search"}
    ill = Conditions(tiers={"consistency": TierState(skipped="has failed lately")})
    assert tiers(plan(0.5, now=ill)) == {"direct", "search"}
    slow = Conditions(tiers={"search": TierState(queue_s=100.0)})
    assert tiers(plan(0.5, now=slow)) == {"direct", "consistency"}


def test_never_beyond_the_budget() -> None:
    needs = {plan(draw).start.arm: plan(draw).start.budget_tokens for draw in draws(400)}
    room = sorted(needs.values())[2]
    affordable = {arm for arm, need in needs.items() if need <= room}
    made = plan(0.5, remaining=room)
    assert set(made.starts) <= affordable | {made.start.arm}
    for draw in draws(400):
        assert plan(draw, remaining=room).start.budget_tokens <= room


def test_a_budget_that_is_short_for_the_policys_choice_still_draws_among_what_fits() -> None:
    own = plan(None).start
    room = own.budget_tokens - 1
    sure = plan(None, remaining=room)
    assert sure.degraded
    said = plan(0.5, remaining=room).starts
    assert sum(said.values()) == pytest.approx(1.0)
    assert said[sure.start.arm] >= 1 - RATE
    drawn = [made for draw in draws(200) if (made := plan(draw, remaining=room)).explored]
    assert drawn
    assert all(made.start.arm in said and made.start.budget_tokens <= room for made in drawn)


def test_a_refusal_stays_one_whatever_is_drawn() -> None:
    deny = explorer(on_low_budget="deny")
    room = plan(None).start.budget_tokens - 1
    for draw in draws(50):
        with pytest.raises(BudgetExhausted):
            plan(draw, tenant=deny, remaining=room)


@settings(max_examples=60, deadline=None)
@given(draw=st.floats(0.0, 1.0, exclude_max=True), room=st.integers(2_000, 60_000))
def test_planned_again_with_less_room_the_same_draw_takes_the_same_start_if_it_fits(
    draw: float, room: int
) -> None:
    """So that plans made again after refusals are drawn as if the budget had been known from the first."""
    first = plan(draw)
    again = plan(draw, remaining=room)
    assert again.start.budget_tokens <= room
    if first.explored and first.start.arm in again.starts and first.start.budget_tokens <= room:
        assert again.start.arm == first.start.arm


def test_after_refusals_starts_are_uniform_among_those_that_fit() -> None:
    room = 9_000
    said = plan(0.5, remaining=room).starts
    assert 2 <= len(said) < len(plan(0.5).starts)
    found: Counter[str] = Counter()
    for draw in draws():
        made = plan(draw)
        if made.start.budget_tokens > room:  # as the ledger would refuse it
            made = plan(draw, remaining=room)
        found[made.start.arm] += 1
    for arm, share in said.items():
        assert found[arm] / 20_000 == pytest.approx(share, abs=0.01)


def test_easy_requests_explore_too() -> None:
    assert set(observed(2_000, estimates=EASY)) == set(plan(0.5, estimates=EASY).starts)


@pytest.mark.parametrize("rate", ["0.21", "-0.01", "yes", ".nan"])
def test_a_rate_that_no_policy_may_have_is_refused(rate: str) -> None:
    text = f"""
version: 1
name: t
arms: {{direct/direct: {{tier: direct, strategy: direct}}}}
defaults: {{exploration: {{rate: {rate}}}}}
tenants: {{acme: {{}}}}
"""
    with pytest.raises(PolicyFileError, match=r"exploration\.rate"):
        parse_policy(text, "p.yaml")
