"""Where a logged run and another policy's part, and what is known of it then."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from policies.arm_spec import TIERS
from policies.plan import ArmEstimate, Ask, Plan
from policies.planner import make_plan
from policies.schema import Policy
from router.decisions.record import Decision, Rung
from router.replay.budgets import LogBudgets
from router.replay.measuring import Measuring, logged
from router.replay.model import LogModel
from router.replay.paths import Path, follow
from tests.replaying import BEGAN_MS, CHEAP, DEAR, decisions, policy, rung

pytestmark = pytest.mark.unit

STRICT = policy(target=0.1, more="escalate_below: {direct: 0.9, consistency: 0.8}")
LAX = policy(target=0.1, more="escalate_below: {direct: 0.2, consistency: 0.2}")
ARMS = {CHEAP: ArmEstimate(0.3, 20.0, 40.0), DEAR: ArmEstimate(0.9, 200.0, 400.0)}


def planned(under: Policy) -> Plan:
    """Both arms, the cheap one first."""
    plan = make_plan(
        Ask(prompt_tokens=10),
        under.tenants["acme"],
        under,
        ARMS,
        remaining_tokens=None,
        available_tiers=frozenset(TIERS),
    )
    assert [step.arm for step in plan.steps] == [CHEAP, DEAR]
    return plan


def run(*rungs: Rung, **over: Any) -> Decision:
    tokens = sum(each.tokens for each in rungs)
    base = decisions(1)[0]
    known: dict[str, Any] = {"rungs": rungs, "arms": ARMS, "plan": (CHEAP, DEAR), "policy_version": "other"}
    return replace(base, **(known | {"tokens": tokens, "charged_tokens": tokens, "score": None} | over))


UNSURE = rung(CHEAP, STRICT, confidence=0.25)
VOTE = rung(DEAR, STRICT, confidence=0.95, tokens=300, samples=4)


def test_the_same_policy_is_the_same_run_however_it_ended() -> None:
    plan = planned(STRICT)
    short = run(UNSURE, policy_version=STRICT.version)
    assert follow(short, plan, STRICT) == Path("same")
    assert follow(run(UNSURE), plan, STRICT).how == "goes_on"


def test_a_run_that_would_have_climbed_too_is_the_same() -> None:
    assert follow(run(UNSURE, VOTE), planned(STRICT), STRICT) == Path("same")


def test_who_accepts_sooner_stops_at_the_first_rung() -> None:
    path = follow(run(UNSURE, VOTE), planned(LAX), LAX)
    assert (path.how, path.at, path.following) == ("stops", 0, None)


def test_who_is_stricter_goes_on() -> None:
    path = follow(run(UNSURE), planned(STRICT), STRICT)
    assert (path.how, path.at) == ("goes_on", 0)
    assert path.following is not None
    assert path.following.arm == DEAR


def test_a_check_that_failed_goes_on_whatever_the_confidence() -> None:
    failed = rung(CHEAP, LAX, confidence=0.99, verified=False)
    assert follow(run(failed), planned(LAX), LAX).how == "goes_on"


def test_an_arm_with_other_parameters_is_another_start() -> None:
    assert follow(run(replace(UNSURE, spec="00000000")), planned(LAX), LAX) == Path("other")


def test_and_another_second_rung() -> None:
    path = follow(run(UNSURE, replace(VOTE, spec="00000000")), planned(STRICT), STRICT)
    assert (path.how, path.at) == ("goes_on", 0)


def test_more_samples_than_the_step_may_draw_are_another_run() -> None:
    assert follow(run(UNSURE, replace(VOTE, samples=9)), planned(STRICT), STRICT).how == "goes_on"


# -- what is known then


def fitted(*of: Decision) -> Measuring:
    model = LogModel()
    for each in of:
        model.add(each)
    model.fit()
    return Measuring(model)


def test_tokens_of_a_run_that_stops_are_those_of_its_rungs() -> None:
    decision = run(UNSURE, VOTE)
    path = follow(decision, planned(LAX), LAX)
    mended = fitted(decision).mended
    assert mended(decision, path, "tokens", logged(decision, "tokens")) == UNSURE.tokens
    assert mended(decision, path, "direct", logged(decision, "direct")) == 1.0
    assert mended(decision, path, "consistency", logged(decision, "consistency")) == 0.0


def test_tokens_of_a_run_that_goes_on_grow_by_what_is_expected() -> None:
    decision = run(UNSURE)
    path = follow(decision, planned(STRICT), STRICT)
    more = fitted(*decisions(300, told=0.0)).mended(decision, path, "tokens", float(UNSURE.tokens))
    assert more == pytest.approx(UNSURE.tokens + 210, rel=0.15)


def test_accuracy_of_a_run_that_stops_is_what_its_confidence_was_worth() -> None:
    log = [run(rung(CHEAP, STRICT, confidence=0.25), score=float(n % 5 == 0)) for n in range(400)]
    decision = run(UNSURE, VOTE, score=1.0)
    path = follow(decision, planned(LAX), LAX)
    assert fitted(*log).mended(decision, path, "accuracy", 1.0) == pytest.approx(0.2, abs=0.05)


def test_the_model_learns_what_a_start_comes_to() -> None:
    model = LogModel()
    for each in decisions(2_000, seed=3):
        model.add(each)
    model.fit()
    value, spread = model.cost("tokens", DEAR, ARMS[DEAR], 10)
    assert value == pytest.approx(10 + 200 * 1.046, rel=0.05)
    assert 0 < spread < value * value
    assert model.reward(CHEAP, ArmEstimate(0.2, 20, 40)) == pytest.approx(0.2, abs=0.05)
    assert model.ends_on(DEAR)["consistency"] > 0.95
    assert not model.knows("cost_usd")


def test_of_an_arm_that_never_ran_the_prediction_stands() -> None:
    model = LogModel()
    model.fit()
    assert model.cost("tokens", DEAR, ARMS[DEAR], 10)[0] == pytest.approx(210)
    assert model.reward(DEAR, ARMS[DEAR]) == pytest.approx(0.9)


# -- budgets


def test_the_tightest_window_has_the_word_and_days_end() -> None:
    tenant = policy(more="budgets: {minute: 500, day: 600}").tenants["acme"]
    budgets = LogBudgets()
    assert budgets.look(tenant, "", BEGAN_MS)[0] == 500
    budgets.charge(tenant, "", 450.0, 0.0, 0.0)
    assert budgets.look(tenant, "", BEGAN_MS + 1)[0] == 50
    room, edge_s, _ = budgets.look(tenant, "", BEGAN_MS + 60_000)
    assert room == 150  # of the day
    assert edge_s is not None
    assert edge_s > 3_600
    assert budgets.look(tenant, "", BEGAN_MS + 86_400_000)[0] == 500


def test_money_that_is_spent_leaves_no_tokens() -> None:
    tenant = policy(more="budgets: {day: {usd: 0.01}}").tenants["acme"]
    budgets = LogBudgets()
    assert budgets.look(tenant, "", BEGAN_MS)[0] is None
    budgets.charge(tenant, "", 10.0, 0.0, 0.02)
    assert budgets.look(tenant, "", BEGAN_MS)[0] == 0


def test_without_budgets_nothing_is_counted() -> None:
    tenant = policy().tenants["acme"]
    budgets = LogBudgets()
    budgets.charge(tenant, "", 1e9, 1e9, 1e9)
    room, edge_s, pace = budgets.look(tenant, "", BEGAN_MS)
    assert (room, edge_s, pace.factor) == (None, None, 1.0)


def test_pacing_makes_cost_count_more_when_too_much_is_spent() -> None:
    tenant = policy(more="budgets: {day: 1000}, pacing: {window: day}").tenants["acme"]
    budgets = LogBudgets()
    noon = BEGAN_MS - BEGAN_MS % 86_400_000 + 43_200_000
    before = budgets.look(tenant, "", noon)[2].factor
    budgets.charge(tenant, "", 900.0, 0.0, 0.0)
    assert budgets.look(tenant, "", noon)[2].factor > 1.0 >= before
