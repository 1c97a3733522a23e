from __future__ import annotations

import dataclasses
import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.task import StrategyParams
from policies.arm_spec import STRATEGIES, TIERS
from policies.arms import MIN_COMPLETION_TOKENS, THINK_PROMPT_TOKENS, Candidate, Size
from policies.errors import (
    BudgetExhausted,
    CeilingExceeded,
    NoArm,
    PlanRefused,
    RequestTooLarge,
    TierForbidden,
    UnknownTier,
)
from policies.loader import load_policy
from policies.plan import ArmEstimate, Ask, Plan, Step
from policies.planner import escalate, make_plan
from policies.schema import EFFORTS, Policy, PolicyDocument, TenantPolicy

POLICY = load_policy(Path(__file__).parents[2] / "policies" / "default.yaml")
ALL_TIERS = frozenset(TIERS)

EASY = {
    "direct/direct": ArmEstimate(0.85, 60, 150),
    "direct/cot": ArmEstimate(0.90, 180, 400),
    "consistency/sc4": ArmEstimate(0.93, 500, 1100),
    "consistency/sc16": ArmEstimate(0.96, 800, 4000),
    "search/beam": ArmEstimate(0.96, 2600, 5000),
}
HARD = {
    "direct/direct": ArmEstimate(0.25, 60, 150),
    "direct/cot": ArmEstimate(0.40, 180, 400),
    "consistency/sc4": ArmEstimate(0.50, 600, 1100),
    "consistency/sc16": ArmEstimate(0.58, 3000, 6000),
    "search/beam": ArmEstimate(0.63, 9000, 15000),
}


def tenant_with(**changes: Any) -> TenantPolicy:
    data = {**POLICY.tenants["demo"].model_dump(exclude={"name", "budgets"}), **changes}
    return TenantPolicy.model_validate({**data, "name": "demo"})


def plan(
    estimates: dict[str, ArmEstimate] = EASY,
    *,
    tenant: TenantPolicy | None = None,
    policy: Policy = POLICY,
    remaining: int | None = None,
    available: frozenset[str] = ALL_TIERS,
    retry_after_s: float | None = None,
    **ask: Any,
) -> Plan:
    return make_plan(
        Ask(**{"prompt_tokens": 100, **ask}),
        tenant or tenant_with(),
        policy,
        estimates,
        remaining_tokens=remaining,
        available_tiers=available,
        retry_after_s=retry_after_s,
    )


def policy_with(**changes: Any) -> Policy:
    data = POLICY.document.model_dump(exclude={"tenants": {"demo": {"name"}, "batch": {"name"}}})
    return Policy.of(PolicyDocument.model_validate({**data, **changes}))


def beam_policy(**changes: Any) -> Policy:
    spec = {**POLICY.arms["search/beam"].model_dump(), **changes}
    return policy_with(arms={**POLICY.arms, "search/beam": spec})


def arms(made: Plan) -> list[str]:
    return [step.arm for step in made.steps]


# -- the start


def test_the_cheapest_arm_that_meets_the_target_starts() -> None:
    made = plan()
    assert made.start.arm == "direct/direct"
    assert "cheapest arm predicted (0.85) to meet the target 0.80" in made.reasons[-1]
    assert plan(min_quality=0.92).start.arm == "consistency/sc4"
    assert plan(tenant=tenant_with(quality_target=0.92)).start.arm == "consistency/sc4"


def test_without_one_the_effort_decides_how_much_accuracy_is_bought() -> None:
    starts = [plan(HARD, effort=effort).start.arm for effort in EFFORTS]
    assert starts == [
        "direct/cot",
        "direct/cot",
        "consistency/sc4",
        "consistency/sc4",
        "consistency/sc16",
        "consistency/sc16",  # 29,500 tokens of searching, most of them prompts, for five points more
        "search/beam",
    ]


def test_the_tenants_cost_weight_decides_too() -> None:
    assert plan(HARD, tenant=tenant_with(cost_weight=0.0)).start.arm == "search/beam"
    assert plan(HARD, tenant=tenant_with(cost_weight=10.0)).start.arm == "direct/direct"


def test_a_hopeless_request_gets_the_cheapest_answer_and_no_ladder() -> None:
    hopeless = {name: dataclasses.replace(e, p=0.05 + e.p / 100) for name, e in HARD.items()}
    made = plan(hopeless, effort="max")
    assert arms(made) == ["direct/direct"]
    assert made.hopeless
    assert "or to do better than the cheapest" in made.reasons[-1]


def test_it_is_hopeless_too_where_better_arms_are_not_worth_their_tokens_even_as_rungs() -> None:
    made = plan(HARD, tenant=tenant_with(cost_weight=10.0))
    assert arms(made) == ["direct/direct"]
    assert made.hopeless
    assert "no dearer start is worth its tokens, so direct/direct (0.25) answers" in made.reasons[-1]


def test_a_cheap_start_with_rungs_behind_it_is_not_hopeless() -> None:
    """0.09 more for 1,492 tokens at 0.1 a thousand: not at once, but when the first has failed."""
    two = {"direct/direct": ArmEstimate(0.7, 100, 200), "consistency/sc4": ArmEstimate(0.79, 1100, 2000)}
    made = plan(two, tenant=tenant_with(cost_weight=0.1))
    assert (arms(made), made.hopeless) == (["direct/direct", "consistency/sc4"], False)
    same_tier = {"direct/direct": two["direct/direct"], "direct/cot": two["consistency/sc4"]}
    made = plan(same_tier, tenant=tenant_with(cost_weight=0.1))
    assert (arms(made), made.hopeless) == (["direct/direct"], True)  # a tier is climbed once
    assert not plan(EASY).hopeless
    assert not plan(HARD).hopeless
    assert not plan({}).hopeless


def test_without_predictions_the_smallest_arm_answers() -> None:
    made = plan({})
    assert arms(made) == ["direct/direct"]
    assert "no prediction" in made.reasons[-1]


def test_an_arm_without_a_prediction_is_not_chosen_beside_predicted_ones() -> None:
    only = {"consistency/sc4": EASY["consistency/sc4"]}
    assert arms(plan(only)) == ["consistency/sc4"]


def test_the_plan_carries_what_the_router_needs() -> None:
    made = plan()
    assert made.policy_version == POLICY.version
    assert made.quality_target == 0.8
    assert made.timeout_s == 60.0
    assert not made.degraded
    assert pickle.loads(pickle.dumps(made)) == made  # noqa: S301


def test_params_are_the_backends_parameters() -> None:
    for made in (plan(), plan(HARD, effort="max")):
        for step in made.steps:
            built = StrategyParams(**step.params)
            assert {f.name for f in dataclasses.fields(built)} == set(step.params)


# -- ceilings


def test_an_arm_with_more_samples_than_the_ceiling_is_shrunk() -> None:
    only = {"consistency/sc16": HARD["consistency/sc16"]}
    made = plan(only, effort="low")
    assert (made.start.arm, made.start.params["max_samples"]) == ("consistency/sc16", 4)
    assert made.start.expected_tokens == 6000 * 4 / 16 + 4 * (100 + THINK_PROMPT_TOKENS)
    assert plan(only, max_samples=3).start.params["max_samples"] == 3
    assert plan(only, effort="high", tenant=tenant_with(max_samples=5)).start.params["max_samples"] == 5


def test_a_shrunk_arm_is_credited_with_less() -> None:
    both = {name: HARD[name] for name in ("direct/cot", "consistency/sc16")}
    made = plan(both, effort="low", tenant=tenant_with(cost_weight=0.0))
    assert made.start.arm == "consistency/sc16"
    assert made.start.p == pytest.approx(0.40 + (0.58 - 0.40) / 2)  # log 4 / log 16 = 1/2


def test_an_arm_that_shrinks_to_another_one_is_dropped_for_it() -> None:
    made = plan(HARD, effort="low", tenant=tenant_with(cost_weight=0.0))
    assert made.start.arm == "consistency/sc4"
    assert made.start.p == 0.50


def test_effort_bounds_the_tiers() -> None:
    assert {step.tier for step in plan(HARD, effort="none", tenant=tenant_with(cost_weight=0.0)).steps} == {
        "direct"
    }
    low = plan(HARD, effort="low", tenant=tenant_with(cost_weight=0.0))
    assert low.start.tier == "consistency"


def test_an_effort_without_any_of_the_tenants_tiers_is_no_refusal() -> None:
    assert plan(effort="none", tenant=tenant_with(tiers=["consistency"])).start.tier == "consistency"


def test_the_tenants_highest_effort_holds() -> None:
    capped = plan(HARD, effort="max", tenant=tenant_with(max_effort="low", default_effort="low"))
    assert capped.start.arm == "consistency/sc4"
    assert "effort max counts as low" in capped.reasons[0]


def test_the_default_effort_holds_where_none_is_asked() -> None:
    assert plan(HARD, tenant=tenant_with(default_effort="max")).start.arm == "search/beam"


def test_an_unknown_effort_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match="no effort 'huge'"):
        plan(effort="huge")


@pytest.mark.parametrize("tier", ["gpu", "auto", ""])
def test_an_unknown_tier(tier: str) -> None:
    with pytest.raises(UnknownTier):
        plan(tier=tier)


def test_a_forbidden_tier() -> None:
    with pytest.raises(TierForbidden, match="search is not open"):
        plan(tier="search", tenant=tenant_with(tiers=["direct", "consistency"]))


def test_above_a_cap_is_an_error_and_never_a_clamp() -> None:
    assert plan(max_completion_tokens=4096).start.max_tokens == 4096
    with pytest.raises(CeilingExceeded, match="at most 4096") as tokens:
        plan(max_completion_tokens=4097)
    assert tokens.value.param == "max_completion_tokens"
    assert plan(deadline_s=300.0).timeout_s == 300.0
    with pytest.raises(CeilingExceeded) as deadline:
        plan(deadline_s=300.1)
    assert deadline.value.param == "compute.deadline_ms"


# -- pins


@pytest.mark.parametrize(
    ("effort", "samples"),
    [("none", 1), ("minimal", 1), ("low", 4), ("medium", 8), ("high", 16), ("xhigh", 32), ("max", 40)],
)
def test_on_a_pinned_tier_the_effort_sets_the_samples(effort: str, samples: int) -> None:
    made = plan(EASY, tier="consistency", effort=effort)
    assert arms(made) == ["consistency/sc16"]
    assert made.start.params["max_samples"] == samples
    by_strategy = plan(EASY, strategy="self_consistency", effort=effort)
    assert (by_strategy.start.arm, by_strategy.start.params["max_samples"]) == ("consistency/sc16", samples)


def test_more_samples_than_the_arm_has_cost_more_and_promise_no_more() -> None:
    sixteen, forty = (plan(HARD, tier="consistency", effort=effort).start for effort in ("high", "max"))
    assert forty.p == sixteen.p
    assert forty.expected_tokens == pytest.approx(sixteen.expected_tokens * 40 / 16)


def test_max_samples_of_the_request_bounds_a_pin_too() -> None:
    assert plan(tier="consistency", effort="max", max_samples=6).start.params["max_samples"] == 6


@pytest.mark.parametrize(
    ("strategy", "arm"),
    [
        ("direct", "direct/direct"),
        ("cot", "direct/cot"),
        ("self_consistency", "consistency/sc16"),
        ("best_of_n", "consistency/bon8"),
        ("refine", "consistency/refine"),
        ("beam", "search/beam"),
        ("rebase", "search/rebase"),
        ("mcts", "search/mcts"),
    ],
)
@pytest.mark.parametrize("estimates", [EASY, HARD, {}], ids=["easy", "hard", "unpredicted"])
def test_every_strategy_can_be_pinned(strategy: str, arm: str, estimates: dict[str, ArmEstimate]) -> None:
    made = plan(estimates, strategy=strategy)
    assert (arms(made), made.start.strategy) == ([arm], strategy)
    assert StrategyParams(**made.start.params).scorer == POLICY.arms[arm].scorer


def test_refinement_has_its_own_rounds_and_no_more() -> None:
    rounds = [plan(strategy="refine", effort=e).start.params["rounds"] for e in EFFORTS]
    assert rounds == [0, 0, 3, 3, 3, 3, 3]
    assert plan(strategy="refine", max_samples=2).start.params["rounds"] == 1


def test_subtrees_still_divide_a_narrower_beam() -> None:
    split = beam_policy(width=4, subtrees=4)
    params = [plan(policy=split, strategy="beam", max_samples=n).start.params for n in (8, 4, 3, 2, 1)]
    assert [(p["width"], p["subtrees"]) for p in params] == [(4, 4), (4, 4), (3, 1), (2, 2), (1, 1)]


def test_unpredicted_arms_do_not_change_what_is_chosen_among_the_predicted() -> None:
    few = {name: spec for name, spec in POLICY.arms.items() if name in EASY}
    older = policy_with(arms=few)
    for estimates in (EASY, HARD):
        for effort in EFFORTS:
            new, old = (plan(estimates, policy=p, effort=effort) for p in (POLICY, older))
            assert new.steps == old.steps


def test_what_no_arm_offers() -> None:
    with pytest.raises(NoArm, match="there is no strategy magic; ask for one of direct, cot, self_consist"):
        plan(strategy="magic")
    without = policy_with(arms={"direct/direct": POLICY.arms["direct/direct"]})
    with pytest.raises(NoArm, match="no arm offers strategy mcts") as none:
        plan(strategy="mcts", policy=without)
    assert not none.value.unavailable
    with pytest.raises(NoArm, match="no arm offers strategy beam on direct"):
        plan(strategy="beam", tier="direct")


def test_several_choices_are_drawn_directly() -> None:
    made = plan(EASY, choices=3)
    assert arms(made) == ["direct/direct"]
    assert made.start.strategy == "direct"
    assert made.start.params["max_samples"] == 1
    assert made.start.budget_tokens == 3 * (100 + 1024)
    with pytest.raises(NoArm, match="n=3"):
        plan(choices=3, tier="search")
    with pytest.raises(NoArm, match="strategy self_consistency and n=2"):
        plan(choices=2, strategy="self_consistency")


# -- availability


def test_a_tier_that_is_down_makes_a_degraded_plan() -> None:
    made = plan(HARD, effort="max", available=frozenset({"direct", "consistency"}))
    assert made.start.arm == "consistency/sc16"
    assert made.degraded
    assert "search/beam was preferred, but its tier is not available now" in made.reasons


def test_a_tier_that_nobody_wanted_may_be_down() -> None:
    made = plan(EASY, available=frozenset({"direct"}))
    assert arms(made) == ["direct/direct"]
    assert not made.degraded


def test_a_missing_tier_is_a_refusal_where_degrading_is_not_allowed() -> None:
    for changes in ({"allow_degrade": False}, {"tier": "search"}):
        with pytest.raises(NoArm, match="not available now") as refused:
            plan(HARD, effort="max", available=frozenset({"direct"}), **changes)
        assert refused.value.unavailable


def test_with_every_tier_down_nothing_answers() -> None:
    with pytest.raises(NoArm) as refused:
        plan(available=frozenset())
    assert refused.value.unavailable


# -- budgets


def bound(name: str) -> Candidate:
    spec = POLICY.arms[name]
    return Candidate(name, spec, spec.max_samples, EASY[name])


def test_one_sample_holds_its_hard_bound() -> None:
    assert bound("direct/direct").reserve_tokens(Size(100, 1024)) == 1124
    assert bound("direct/cot").reserve_tokens(Size(100, 1024)) == 1124 + THINK_PROMPT_TOKENS


def test_many_samples_hold_what_they_come_to_with_a_margin() -> None:
    size, prompt = Size(100, 1024), 100 + THINK_PROMPT_TOKENS
    four = bound("consistency/sc4")
    assert four.hard_tokens(size) == 4 * (prompt + 1024)
    assert four.reserve_tokens(size) == 4 * prompt + 1375 + 1024
    assert four.reserve_tokens(Size(100, 20)) == 4 * (prompt + 20)  # never above the hard bound
    unknown = dataclasses.replace(four, estimate=None)
    assert unknown.reserve_tokens(size) == unknown.hard_tokens(size)


def test_a_tree_search_resubmits_its_paths() -> None:
    """8 children a step, 12 steps of 48 tokens: each resubmits the prompt and what came before.

    And one whole reply, for a search that found none.
    """
    prompt = 100 + THINK_PROMPT_TOKENS
    expected = sum(8 * (prompt + 48 * done + 48) for done in range(12)) + prompt + 12 * 48
    assert bound("search/beam").hard_tokens(Size(100, 1024)) == expected
    # Of 96 tokens a reply may still take 12 steps: short ones. Its path is never longer than 96.
    short = sum(8 * (prompt + min(48 * done, 96) + 48) for done in range(12)) + prompt + 96
    assert bound("search/beam").hard_tokens(Size(100, 96)) == short


def test_fewer_samples_when_the_budget_runs_low() -> None:
    full = plan(HARD, effort="high")
    made = plan(HARD, effort="high", remaining=full.start.budget_tokens - 1)
    assert made.degraded
    assert made.start.arm == "consistency/sc16"
    assert 2 <= made.start.params["max_samples"] < 16
    assert "tokens left: consistency/sc16 with" in made.reasons[-1]
    assert len(made.steps) == 1


def test_then_one_sample_with_fewer_tokens_down_to_a_floor() -> None:
    made = plan(HARD, effort="high", remaining=500)
    assert (made.start.arm, made.start.max_tokens, made.start.budget_tokens) == ("direct/direct", 400, 500)
    floor = plan(HARD, effort="high", remaining=100 + MIN_COMPLETION_TOKENS)
    assert floor.start.max_tokens == MIN_COMPLETION_TOKENS
    with pytest.raises(BudgetExhausted) as refused:
        plan(HARD, effort="high", remaining=99 + MIN_COMPLETION_TOKENS, retry_after_s=12.5)
    assert refused.value.retry_after_s == 12.5
    assert refused.value.remaining_tokens == 115


def test_a_pinned_tier_keeps_its_pin_when_the_budget_runs_low() -> None:
    made = plan(HARD, tier="consistency", effort="max", remaining=400)
    assert (made.start.tier, made.start.params["max_samples"]) == ("consistency", 1)
    assert made.start.budget_tokens <= 400
    assert made.degraded


def test_what_just_fits_is_not_degraded() -> None:
    full = plan(EASY)
    made = plan(EASY, remaining=full.start.budget_tokens)
    assert made.start == full.start
    assert not made.degraded


@pytest.mark.parametrize("changes", [{"on_low_budget": "deny"}, {"allow_degrade": False}])
def test_no_smaller_plan_where_tenants_want_none(changes: dict[str, Any]) -> None:
    with pytest.raises(BudgetExhausted):
        plan(HARD, effort="high", remaining=500, tenant=tenant_with(**changes))


def test_the_request_decides_about_degrading_before_the_tenant() -> None:
    assert plan(remaining=500, allow_degrade=True, tenant=tenant_with(allow_degrade=False)).degraded
    with pytest.raises(BudgetExhausted):
        plan(remaining=500, allow_degrade=False)
    with pytest.raises(BudgetExhausted):
        plan(remaining=500, allow_degrade=True, tenant=tenant_with(on_low_budget="deny"))


def test_what_never_fits_an_empty_window_is_told_so() -> None:
    deny = tenant_with(on_low_budget="deny", budgets={"minute": 1000, "day": 5000})
    with pytest.raises(RequestTooLarge, match="the minute budget allows 1000") as refused:
        plan(remaining=1000, tenant=deny)
    assert (refused.value.needed_tokens, refused.value.limit_tokens) == (1124, 1000)
    with pytest.raises(BudgetExhausted):
        plan(remaining=800, tenant=deny, max_completion_tokens=800)
    with pytest.raises(RequestTooLarge, match="the minute budget"):
        plan(remaining=1000, tenant=tenant_with(budgets={"minute": 1000}), prompt_tokens=990)
    with pytest.raises(RequestTooLarge, match="the day budget"):  # before anybody has looked what is left
        plan(tenant=tenant_with(budgets={"day": 1000}), prompt_tokens=990)


def test_max_total_tokens_caps_without_degrading() -> None:
    made = plan(HARD, effort="max", max_total_tokens=2000)
    assert sum(step.budget_tokens for step in made.steps) <= 2000
    assert not made.degraded
    direct = plan(EASY, max_total_tokens=400)
    assert (direct.start.max_tokens, direct.start.budget_tokens) == (300, 400)
    assert "compute.max_total_tokens leaves 300 tokens" in direct.reasons[-1]
    by_tenant = plan(EASY, tenant=tenant_with(max_total_tokens=400))
    assert "the tenant's max_total_tokens" in by_tenant.reasons[-1]
    with pytest.raises(RequestTooLarge, match=r"compute\.max_total_tokens allows 115"):
        plan(max_total_tokens=115)
    with pytest.raises(RequestTooLarge):
        plan(max_total_tokens=130, strategy="cot")  # its longer prompt does not fit


# -- the ladder


def test_the_ladder_leads_to_dearer_arms_on_later_tiers() -> None:
    made = plan(EASY, effort="max")
    assert arms(made) == ["direct/direct", "consistency/sc16"]
    for before, after in pairwise(made.steps):
        assert TIERS.index(after.tier) > TIERS.index(before.tier)
        assert after.p > before.p
        assert after.expected_tokens > before.expected_tokens
    assert made.steps[0].net_gain == 0.0
    # A reply has 180 tokens (cot's), so 800 are 800/180 calls, each with the prompt of 148.
    extra = 800 + 800 / 180 * (100 + THINK_PROMPT_TOKENS) - (60 + 100)
    assert made.steps[1].net_gain == pytest.approx(0.96 - 0.85 - 0.002 * extra / 1000)


def test_a_rung_that_does_not_pay_is_left_out() -> None:
    assert arms(plan(EASY, tenant=tenant_with(cost_weight=5.0))) == ["direct/direct"]
    flat = {name: dataclasses.replace(e, p=0.85) for name, e in EASY.items()}
    assert arms(plan(flat)) == ["direct/direct"]


def test_a_rung_is_paid_for_only_as_often_as_the_evidence_is_weak() -> None:
    """A gain of 0.05 for 1492 tokens at 0.1 a thousand: not worth it always, but worth it one time in ten.

    The extra tokens: 1100 + 4 prompts of 148, less 100 + one prompt of 100.
    """
    two = {"direct/direct": ArmEstimate(0.9, 100, 200), "consistency/sc4": ArmEstimate(0.95, 1100, 2000)}
    made = plan(two, tenant=tenant_with(cost_weight=0.1))
    assert arms(made) == ["direct/direct", "consistency/sc4"]
    assert made.steps[1].net_gain == pytest.approx(0.05 - 0.1492)


def test_a_rung_fits_into_what_the_steps_before_leave() -> None:
    made = plan(EASY, effort="max", remaining=1124 + 4500)
    assert arms(made) == ["direct/direct", "consistency/sc16"]
    assert made.steps[1].params["max_samples"] < 16
    assert sum(step.budget_tokens for step in made.steps) <= 1124 + 4500
    assert arms(plan(EASY, effort="max", remaining=1124 + 200)) == ["direct/direct"]


def test_three_rungs_share_what_is_there() -> None:
    three = {
        "direct/direct": ArmEstimate(0.85, 60, 150),
        "consistency/sc4": ArmEstimate(0.93, 500, 1100),
        "search/beam": ArmEstimate(0.99, 900, 2000),
    }
    whole = plan(three, effort="max")
    assert [step.tier for step in whole.steps] == list(TIERS)
    left = sum(step.budget_tokens for step in whole.steps) - 1
    made = plan(three, effort="max", remaining=left)
    assert [step.params["max_samples"] for step in made.steps] == [1, 4, 7]
    assert sum(step.budget_tokens for step in made.steps) <= left


def test_a_tier_that_is_down_is_no_rung() -> None:
    assert arms(plan(EASY, effort="max", available=frozenset({"direct", "search"}))) == [
        "direct/direct",
        "search/beam",
    ]


# -- escalation


def ladder(net_gain: float = 0.1, target: float = 0.99) -> Plan:
    """Two steps, the first of which was not predicted to meet the target."""
    made = plan(EASY, effort="max")
    first, second = made.steps
    steps = (first, dataclasses.replace(second, net_gain=net_gain))
    return dataclasses.replace(made, steps=steps, quality_target=target)


@pytest.mark.parametrize(
    ("confidence", "verified", "stop_reason", "accept", "said"),
    [
        (0.1, True, "complete", True, "passed the caller's check"),
        (0.99, False, "complete", False, "failed the caller's check; consistency/sc16 tries next"),
        (0.99, False, "deadline", True, "no time"),
        (0.1, None, "deadline", True, "no time"),
        (0.9, None, "complete", True, "direct/direct is 0.90 confident, direct needs 0.90"),
        (0.89, None, "complete", False, "direct needs 0.90; consistency/sc16 tries next"),
        (None, None, "no_comparable_answer", True, "cannot be compared"),
        (None, None, "complete", False, "predicted to gain more than it costs"),
    ],
)
def test_escalation(
    confidence: float | None, verified: bool | None, stop_reason: str, accept: bool, said: str
) -> None:
    verdict = escalate(ladder(), 0, confidence=confidence, verified=verified, stop_reason=stop_reason)
    assert verdict.accept is accept
    assert said in verdict.reason


def test_without_evidence_a_rung_must_pay_to_be_climbed() -> None:
    verdict = escalate(ladder(-0.01), 0, confidence=None, verified=None, stop_reason="complete")
    assert verdict.accept
    assert "no further step is predicted to pay" in verdict.reason


def test_without_evidence_a_step_that_was_to_meet_the_target_is_believed() -> None:
    verdict = escalate(ladder(target=0.5), 0, confidence=None, verified=None, stop_reason="complete")
    assert verdict.accept
    assert "meet the target" in verdict.reason


def test_the_last_step_is_accepted_whatever_it_is_worth() -> None:
    verdict = escalate(ladder(), 1, confidence=0.0, verified=False, stop_reason="budget")
    assert verdict.accept
    assert "last step" in verdict.reason


def test_each_tier_has_its_own_threshold() -> None:
    strict = tenant_with(escalate_below={"direct": 0.5, "consistency": 0.99})
    made = plan(EASY, effort="max", tenant=strict)
    assert [step.escalate_below for step in made.steps] == [0.5, 0.99]
    assert escalate(made, 0, confidence=0.6, verified=None, stop_reason="complete").accept


# -- properties

probabilities = st.floats(0.0, 1.0)
tokens = st.floats(1.0, 20_000.0)
estimates_ = st.fixed_dictionaries(
    {},
    optional={
        name: st.builds(lambda p, t, f: ArmEstimate(p, t, t * f), probabilities, tokens, st.floats(1.0, 4.0))
        for name in POLICY.arms
    },
)
asks = st.builds(
    Ask,
    prompt_tokens=st.integers(1, 5000),
    tier=st.none() | st.sampled_from(TIERS),
    effort=st.none() | st.sampled_from(EFFORTS),
    strategy=st.none() | st.sampled_from(STRATEGIES),
    max_samples=st.none() | st.integers(1, 40),
    max_completion_tokens=st.none() | st.integers(1, 4096),
    max_total_tokens=st.none() | st.integers(1, 100_000),
    min_quality=st.none() | probabilities,
    allow_degrade=st.none() | st.booleans(),
    choices=st.sampled_from([1, 1, 1, 2, 8]),
)
tenants = st.builds(
    tenant_with,
    cost_weight=st.floats(0.0, 10.0),
    quality_target=probabilities,
    on_low_budget=st.sampled_from(["degrade", "deny"]),
    max_total_tokens=st.none() | st.integers(100, 100_000),
    max_samples=st.integers(1, 40),
    budgets=st.builds(lambda minute: {"minute": minute}, st.none() | st.integers(0, 50_000)),
)


@settings(max_examples=400, deadline=None)
@given(
    ask=asks,
    tenant=tenants,
    estimates=estimates_,
    remaining=st.none() | st.integers(0, 50_000),
    available=st.frozensets(st.sampled_from(TIERS)),
)
def test_a_plan_stays_within_every_bound(
    ask: Ask,
    tenant: TenantPolicy,
    estimates: dict[str, ArmEstimate],
    remaining: int | None,
    available: frozenset[str],
) -> None:
    try:
        made = make_plan(
            ask, tenant, POLICY, estimates, remaining_tokens=remaining, available_tiers=available
        )
    except PlanRefused:
        return
    total = sum(step.budget_tokens for step in made.steps)
    for limit in (remaining, ask.max_total_tokens, tenant.max_total_tokens):
        assert limit is None or total <= limit
    rule = POLICY.efforts[ask.effort or tenant.default_effort]  # type: ignore[index]
    asked_tokens = ask.max_completion_tokens or tenant.max_completion_tokens.default
    for step in made.steps:
        check_step(step, ask, tenant, rule.max_samples, asked_tokens, available)
        if ask.tier is None and ask.strategy is None:
            assert step.tier in rule.tiers
    assert [TIERS.index(s.tier) for s in made.steps] == sorted({TIERS.index(s.tier) for s in made.steps})
    for before, after in pairwise(made.steps):
        assert after.p > before.p
        assert after.expected_tokens > before.expected_tokens
    assert made.reasons


def check_step(
    step: Step,
    ask: Ask,
    tenant: TenantPolicy,
    max_samples: int,
    asked_tokens: int,
    available: frozenset[str],
) -> None:
    assert step.tier in available
    assert ask.tier in (None, step.tier)
    assert step.params["max_samples"] <= min(max_samples, tenant.max_samples, ask.max_samples or 40)
    assert min(MIN_COMPLETION_TOKENS, asked_tokens) <= step.max_tokens <= asked_tokens
    # Whatever the bound, every step can make at least its first call (or all the choices).
    assert step.budget_tokens >= ask.choices * (ask.prompt_tokens + min(MIN_COMPLETION_TOKENS, asked_tokens))
    assert 0.0 <= step.p <= 1.0
    assert ask.strategy in (None, step.strategy)
    assert ask.choices == 1 or step.strategy in ("direct", "cot")
    built = StrategyParams(**step.params)
    assert built.width <= built.max_samples
    assert built.width % built.subtrees == 0


@settings(max_examples=200, deadline=None)
@given(
    strategy=st.sampled_from(["self_consistency", "best_of_n", "refine", "beam", "rebase", "mcts"]),
    estimates=estimates_,
    prompt=st.integers(1, 5000),
    length=st.integers(1, 4096),
)
def test_a_higher_effort_never_has_a_smaller_budget(
    strategy: str, estimates: dict[str, ArmEstimate], prompt: int, length: int
) -> None:
    tenant = tenant_with(max_total_tokens=None)
    budgets = [
        plan(
            estimates,
            tenant=tenant,
            strategy=strategy,
            effort=effort,
            prompt_tokens=prompt,
            max_completion_tokens=length,
        ).start.budget_tokens
        for effort in EFFORTS
    ]
    assert budgets == sorted(budgets)


FREE = policy_with(
    efforts={
        name: {**rule.model_dump(), "max_samples": 40, "tiers": TIERS}
        for name, rule in POLICY.efforts.items()
    }
)
"""Efforts that differ only in how much weight cost has."""


@settings(max_examples=200, deadline=None)
@given(estimates=estimates_.filter(bool), weight=st.floats(0.001, 1.0))
def test_a_higher_effort_never_starts_with_a_cheaper_arm(
    estimates: dict[str, ArmEstimate], weight: float
) -> None:
    """Where no arm meets the target: argmax p - lambda * tokens grows in tokens as lambda falls."""
    tenant = tenant_with(cost_weight=weight, quality_target=1.0, max_total_tokens=None)
    below = {name: dataclasses.replace(e, p=min(e.p, 0.999)) for name, e in estimates.items()}
    spent = [
        plan(below, policy=FREE, tenant=tenant, effort=effort).start.expected_tokens for effort in EFFORTS
    ]
    assert all(after >= before * (1 - 1e-9) for before, after in pairwise(spent))
