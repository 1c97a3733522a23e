"""What holds when a plan is made: tiers that are ill or busy, deadlines, spent shares, pace, budgets."""

from __future__ import annotations

from typing import Any

import pytest

from policies.conditions import Conditions, SpentShare, TierState
from policies.errors import BudgetExhausted, PlanRefused, TierShareSpent
from policies.pacing import Pace
from policies.plan import ArmEstimate, Ask, Plan
from policies.planner import make_plan
from tests.unit.test_planner import ALL_TIERS, EASY, HARD, POLICY, arms, tenant_with

MIXED = {
    "direct/direct": ArmEstimate(0.70, 60, 150),
    "direct/cot": ArmEstimate(0.78, 180, 400),
    "consistency/sc4": ArmEstimate(0.88, 500, 1100),
    "search/beam": ArmEstimate(0.93, 2600, 5000),
}


def plan(
    estimates: dict[str, ArmEstimate] = HARD,
    *,
    tenant: dict[str, Any] | None = None,
    remaining: int | None = None,
    tiers: dict[str, TierState] | None = None,
    spent: dict[str, SpentShare] | None = None,
    factor: float = 1.0,
    **ask: Any,
) -> Plan:
    pace = Pace(factor, "day", 0.6, 0.5) if factor != 1.0 else Pace()
    return make_plan(
        Ask(**{"prompt_tokens": 100, **ask}),
        tenant_with(**(tenant or {})),
        POLICY,
        estimates,
        remaining_tokens=remaining,
        available_tiers=ALL_TIERS,
        now=Conditions(tiers=tiers or {}, spent_shares=spent or {}, pace=pace),
    )


# -- health


SICK = {"search": TierState(skipped="failed 2 times in a row; it is tried again in 3.0 s")}


def test_a_sick_tier_is_passed_over_and_the_reason_says_why() -> None:
    assert plan(effort="max").start.arm == "search/beam"
    made = plan(effort="max", tiers=SICK)
    assert made.start.tier != "search"
    assert made.degraded
    assert any("failed 2 times in a row; it is tried again in 3.0 s" in reason for reason in made.reasons)
    assert all(step.tier != "search" for step in made.steps)


def test_a_sick_tier_that_nobody_wanted_changes_nothing_but_the_rungs() -> None:
    made = plan(EASY, tiers=SICK)
    assert (made.start, made.degraded, made.reasons) == (plan(EASY).start, False, plan(EASY).reasons)
    assert "search" not in [step.tier for step in made.steps]


@pytest.mark.parametrize("changes", [{"tier": "search"}, {"allow_degrade": False}])
def test_where_nothing_else_may_answer_it_is_tried(changes: dict[str, Any]) -> None:
    made = plan(effort="max", tiers=SICK, **changes)
    assert (made.start.tier, made.degraded) == ("search", False)
    assert any("nothing else may answer, so it is tried" in reason for reason in made.reasons)


def test_with_every_tier_sick_the_best_is_tried() -> None:
    ill = {tier: TierState(skipped="is overloaded") for tier in ALL_TIERS}
    assert plan(EASY, tiers=ill).start == plan(EASY).start


# -- queue


def test_a_queue_makes_a_tier_dearer() -> None:
    two = {"consistency/sc4": MIXED["consistency/sc4"], "direct/cot": ArmEstimate(0.9, 400, 500)}
    idle = plan(two)
    assert idle.start.arm == "direct/cot"
    busy = plan(two, tiers={"direct": TierState(queue_s=30.0)}, deadline_s=60)
    assert busy.start.arm == "consistency/sc4"
    assert "direct has a queue of about 30 s, so it counts 3 times" in busy.reasons
    assert plan(two, tiers={"direct": TierState(queue_s=0.5)}, deadline_s=60).start.arm == "direct/cot"


def test_what_is_reserved_and_expected_does_not_depend_on_the_queue() -> None:
    busy = plan(EASY, tiers={tier: TierState(queue_s=10.0) for tier in ALL_TIERS})
    assert busy.start == plan(EASY).start


# -- deadline


def test_an_arm_that_cannot_give_one_sample_in_time_is_left_out() -> None:
    slow = {"search": TierState(seconds_per_token=1.0), "consistency": TierState(seconds_per_token=0.01)}
    made = plan(effort="max", tiers=slow, deadline_s=20)
    assert made.start.tier != "search"
    assert not made.degraded  # the deadline is the caller's own
    said = [reason for reason in made.reasons if "search/beam is left out" in reason]
    assert said
    assert "the deadline is 20 s" in said[0]


def test_a_strategy_that_could_not_finish_is_kept_as_long_as_one_sample_fits() -> None:
    """sc16 would take 16 x 180 tokens one after another; one reply of 180 fits, and the vote ends there."""
    state = {"consistency": TierState(seconds_per_token=0.1)}
    made = plan(effort="xhigh", tiers=state, deadline_s=19, tier="consistency", strategy="self_consistency")
    assert made.start.arm == "consistency/sc16"
    assert not any("left out" in reason for reason in made.reasons)


def test_where_nothing_fits_the_fastest_tries() -> None:
    slow = {tier: TierState(seconds_per_token=1.0) for tier in ALL_TIERS}
    made = plan(tiers=slow, deadline_s=5)
    assert arms(made) == ["direct/direct"]
    assert any("nothing is expected to answer within 5 s" in reason for reason in made.reasons)


def test_a_queue_counts_against_the_deadline() -> None:
    full = {"search": TierState(queue_s=30.0)}
    assert plan(effort="max", tiers=full, deadline_s=20).start.tier != "search"
    assert plan(effort="max", tiers=full, deadline_s=290, tenant={"cost_weight": 0.0}).start.tier == "search"


def test_a_rung_that_would_come_too_late_is_no_rung() -> None:
    estimates, free = {**EASY, "search/beam": ArmEstimate(0.99, 2600, 5000)}, {"cost_weight": 0.0}
    assert "search" in [step.tier for step in plan(estimates, tenant=free).steps]
    slow = {"search": TierState(seconds_per_token=0.5)}
    assert "search" in [step.tier for step in plan(estimates, tenant=free, tiers=slow, deadline_s=91).steps]
    busy = {**slow, "direct": TierState(queue_s=20.0)}
    made = plan(estimates, tenant=free, tiers=busy, deadline_s=91)
    assert made.start.tier == "direct"
    assert "search" not in [step.tier for step in made.steps]
    assert "search is no further step: the deadline would leave it about" in made.reasons[-1]


# -- shares


SPENT = {"search": SpentShare(0.2, "day", 120, 3600.0)}


def test_a_tier_without_room_in_its_share_is_left_out_and_nothing_is_degraded() -> None:
    made = plan(effort="max", spent=SPENT)
    assert made.start.tier != "search"
    assert not made.degraded
    assert all(step.tier != "search" for step in made.steps)
    said = next(
        reason for reason in made.reasons if reason.startswith("search has spent its share of the day")
    )
    assert "20%" in said
    assert "full again in 3600 s" in said


def test_a_pinned_tier_is_refused_and_told_when_it_fits_again() -> None:
    with pytest.raises(TierShareSpent) as refused:
        plan(effort="max", spent=SPENT, tier="search")
    assert (refused.value.tier, refused.value.window, refused.value.retry_after_s) == (
        "search",
        "day",
        3600.0,
    )
    assert "ask for auto, or again in 3600 s" in str(refused.value)


def test_a_pinned_strategy_that_lies_there_alone_is_refused_too() -> None:
    with pytest.raises(TierShareSpent):
        plan(spent=SPENT, strategy="beam")


# -- pace


def test_on_schedule_nothing_changes() -> None:
    for estimates in (EASY, HARD, MIXED):
        assert plan(estimates, factor=1.0).reasons == plan(estimates).reasons


def test_ahead_of_schedule_cost_speaks_against_the_arm_that_meets_the_target() -> None:
    assert plan(MIXED).start.arm == "consistency/sc4"
    made = plan(MIXED, factor=30.0)
    assert made.start.arm == "direct/direct"
    assert made.degraded
    assert any("60% of the day's budget is spent or held after 50% of the day" in r for r in made.reasons)
    assert "direct/direct (0.70) answers instead, to make the budget last" in made.reasons[-1]


def test_a_little_ahead_of_schedule_changes_little() -> None:
    assert plan(MIXED, factor=1.05).start.arm == plan(MIXED).start.arm


@pytest.mark.parametrize("changes", [{"min_quality": 0.85}, {"allow_degrade": False}])
def test_a_target_that_must_not_be_missed_stands(changes: dict[str, Any]) -> None:
    made = plan(MIXED, factor=30.0, **changes)
    assert (made.start.arm, made.degraded) == ("consistency/sc4", False)


def test_money_left_over_buys_accuracy() -> None:
    assert plan(HARD).start.arm == "consistency/sc4"
    assert plan(HARD, factor=0.05, effort="medium").start.arm != "consistency/sc4"
    assert not plan(HARD, factor=0.05).degraded


# -- a budget that runs low: each combination


@pytest.mark.parametrize("asked", [None, True, False])
@pytest.mark.parametrize("allowed", [True, False])
@pytest.mark.parametrize("rule", ["degrade", "deny"])
def test_on_low_budget_and_allow_degrade(rule: str, allowed: bool, asked: bool | None) -> None:
    """The tenant's rule comes first; then the request says, and where it does not, the tenant."""
    degrades = rule == "degrade" and (allowed if asked is None else asked)
    tenant = {"on_low_budget": rule, "allow_degrade": allowed, "budgets": {"day": 100_000}}
    if degrades:
        made = plan(tenant=tenant, remaining=500, allow_degrade=asked)
        assert made.degraded
        assert sum(step.budget_tokens for step in made.steps) <= 500
        assert "the budget has 500 tokens left" in made.reasons[-1]
    else:
        with pytest.raises(BudgetExhausted):
            plan(tenant=tenant, remaining=500, allow_degrade=asked)
    with pytest.raises(PlanRefused):
        plan(tenant=tenant, remaining=10, allow_degrade=asked)
    plenty = plan(tenant=tenant, remaining=50_000, allow_degrade=asked)
    assert not plenty.degraded


# -- what another moment might plan more for


def test_a_calm_plan_is_not_held_back_and_may_be_given_again() -> None:
    assert not plan().held_back
    assert not plan(factor=0.5).held_back  # a generous pace holds nothing back


def test_pace_and_sick_tiers_hold_a_plan_back() -> None:
    assert plan(factor=3.0).held_back
    assert plan(effort="max", tiers=SICK).held_back
    assert plan(EASY, tiers=SICK, effort="max").held_back  # its ladder is shorter
    assert plan(tiers={"search": TierState(queue_s=50.0)}).held_back
