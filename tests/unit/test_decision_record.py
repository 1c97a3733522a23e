"""A decision goes to JSON and back, and what no decision can have is refused by line and field."""

from __future__ import annotations

import json
import pickle
from dataclasses import fields, replace
from typing import Any

import pytest

from policies.plan import Ask
from router.decisions.errors import DecisionLogError, InvalidDecision, LogUnavailable, LogUnreadable
from router.decisions.record import Decision, decision_from_json
from tests.decisions import full, plain

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("decision", [plain(), full()])
def test_a_decision_survives_json(decision: Decision) -> None:
    assert decision_from_json(json.loads(json.dumps(decision.to_json(), allow_nan=False))) == decision


def test_the_full_decision_leaves_no_field_at_its_default() -> None:
    """Or the test above would not notice a field that is not carried over."""
    least = plain()
    same = [f.name for f in fields(Decision) if getattr(full(), f.name) == getattr(least, f.name)]
    assert same == ["decision_id", "at_ms", "tenant", "policy_version", "outcome", "explored"]
    assert decision_from_json(plain(explored=True).to_json()).explored


def test_what_was_asked_can_be_asked_again() -> None:
    ask = Ask(**decision_from_json(full().to_json()).ask)
    assert (ask.prompt_tokens, ask.effort, ask.allow_degrade, ask.tier) == (30, "high", True, None)


def test_unknown_fields_are_passed_over_but_not_in_what_was_asked() -> None:
    assert decision_from_json({**plain().to_json(), "colour": "red"}) == plain()
    with pytest.raises(InvalidDecision, match=r"ask\.colour.*unknown"):
        decision_from_json({**plain().to_json(), "ask": {"colour": "red"}})


def test_propensity_is_that_of_the_start() -> None:
    assert full().propensity == 0.95
    assert plain().propensity is None
    explored = replace(full(), plan=("consistency/sc8",), explored=True)
    assert explored.propensity == 0.05


@pytest.mark.parametrize(
    ("score", "verified", "reward"),
    [(0.75, False, 0.75), (0.0, True, 0.0), (None, True, 1.0), (None, False, 0.0), (None, None, None)],
)
def test_reward_is_feedback_then_the_check_then_unknown(
    score: float | None, verified: bool | None, reward: float | None
) -> None:
    assert plain(score=score, verified=verified, confidence=0.99).reward == reward


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("decision_id", None, "decision_id"),
        ("decision_id", 5, "decision_id"),
        ("decision_id", "x" * 201, "decision_id"),
        ("at_ms", 1.5, "at_ms"),
        ("at_ms", True, "at_ms"),
        ("at_ms", -1, "at_ms"),
        ("tenant", "", "tenant"),
        ("tenant", "a\ud800", "tenant"),
        ("messages", [{"role": "user", "content": "\udfff"}], "messages.0.content"),
        ("outcome", "won", "outcome"),
        ("ood", float("nan"), "ood"),
        ("ood", float("inf"), "ood"),
        ("tokens", 10**400, "tokens"),
        ("tokens", "7", "tokens"),
        ("score", 1.01, "score"),
        ("confidence", -0.1, "confidence"),
        ("degraded", 1, "degraded"),
        ("verified", "yes", "verified"),
        ("structural", "1", "structural"),
        ("structural", [1, None], "structural.1"),
        ("structural", [float("nan")], "structural.0"),
        ("structural", [0.0] * 10_001, "structural"),
        ("plan", [""], "plan.0"),
        ("plan", "direct", "plan"),
        ("arms", [], "arms"),
        ("arms", {"a": 1}, "arms.a"),
        ("arms", {"a": {"p": 2, "tokens": 1, "tokens_high": 1}}, "arms.a.p"),
        ("arms", {"a": {"p": 0.5, "tokens": 1}}, "arms.a.tokens_high"),
        ("arms", {"": {"p": 0.5, "tokens": 1, "tokens_high": 2}}, "arms"),
        ("starts", {"a": 0.5, "b": 0.4}, "starts"),
        ("starts", {"a": 1.0, "b": 0.0}, "starts"),
        ("starts", {"a": 1.5, "b": -0.5}, "starts.a"),
        ("rungs", [{"arm": "a"}], "rungs.0.spec"),
        ("rungs", ["a"], "rungs.0"),
        ("ask", {"prompt_tokens": -1}, "ask.prompt_tokens"),
        ("ask", {"allow_degrade": "no"}, "ask.allow_degrade"),
        ("messages", [{"role": "user"}], "messages.0.content"),
        ("messages", [{"role": "", "content": "x"}], "messages.0.role"),
    ],
)
def test_a_value_that_no_decision_has_is_named(field: str, value: Any, named: str) -> None:
    with pytest.raises(InvalidDecision) as caught:
        decision_from_json({**plain().to_json(), field: value}, line=17)
    assert caught.value.line == 17
    assert caught.value.field.startswith(named)
    assert str(caught.value).startswith(f"line 17, field '{named}")


def test_a_start_without_its_propensity_is_refused() -> None:
    with pytest.raises(InvalidDecision, match="no propensity of the arm"):
        decision_from_json({**plain().to_json(), "plan": ["a"], "starts": {"b": 1.0}})


@pytest.mark.parametrize("value", [[], "x", 5, None])
def test_a_row_that_is_no_object_is_refused(value: Any) -> None:
    with pytest.raises(InvalidDecision, match="JSON object"):
        decision_from_json(value)


@pytest.mark.parametrize(
    "error",
    [
        InvalidDecision("must be a number", "a.b", 3, "log.jsonl"),
        LogUnreadable("x"),
        LogUnavailable("y"),
    ],
)
def test_errors_are_picklable(error: DecisionLogError) -> None:
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (type(copy), str(copy)) == (type(error), str(error))


def test_a_hostile_field_name_is_one_printable_line() -> None:
    with pytest.raises(InvalidDecision) as caught:
        decision_from_json({**plain().to_json(), "ask": {"a\nb\x1b[31m" + "x" * 500: 1}})
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
