"""One sample's calibrated confidence ends a plan or climbs it; the sample travels up as a vote."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from backends.task import Sample, TextDelta, TierResult
from classifier.confidence import Confidence, SampleFacts
from policies.plan import Plan, Step
from policies.planner import escalate
from router.judge import confidence_in
from router.request import Receipt, ReplyStream
from tests.service import ACME, POLICY, TestService, request, start_service
from tests.tasks import carried, says
from tests.unit.test_pipeline import settled

LIKELY = {"direct/direct": 0.85, "consistency/sc8": 0.97, "search/beam": 0.2}
UNLIKELY = {"direct/direct": 0.80, "consistency/sc8": 0.86, "search/beam": 0.2}


def always(p: float) -> dict[str, Confidence]:
    """A judge to whom every sample of direct is right with p."""
    return {"direct/direct": Confidence((math.log(p / (1.0 - p)), 0.0, 0.0, 0.0, 0.0, 0.0))}


async def service_that_believes(
    p: float, predicted: dict[str, float] = LIKELY, *, target: float = 0.8, cost_weight: float = 0.02
) -> TestService:
    policy = POLICY.replace(
        "quality_target: 0.8", f"quality_target: {target}\n    cost_weight: {cost_weight}"
    )
    return await start_service(says("Answer: 7"), predicted, policy, confidences=always(p))


async def receipt_of(service: TestService, **fields: Any) -> Receipt:
    return (await service.pipeline.complete(ACME, request(**fields))).receipt


# -- through the pipeline


async def test_a_confident_sample_ends_the_plan() -> None:
    service = await service_that_believes(0.93)
    receipt = await receipt_of(service)
    assert receipt.arms_tried == ("direct/direct",)
    assert receipt.confidence == pytest.approx(0.93)
    assert "direct/direct is 0.93 confident, direct needs 0.90" in receipt.reasons


async def test_a_doubtful_sample_climbs_and_is_the_first_vote() -> None:
    service = await service_that_believes(0.3)
    receipt = await receipt_of(service)
    assert receipt.arms_tried == ("direct/direct", "consistency/sc8")
    assert receipt.stop_reason == "confident"
    assert receipt.samples_used == len(service.engine.calls) == 4  # the fourth agreeing vote settles it
    assert receipt.confidence is not None
    assert receipt.confidence > 0.9  # the vote's own
    assert receipt.charged_tokens == receipt.spend.total == await settled(service)


async def test_no_less_than_was_predicted_is_enough_for_the_target() -> None:
    receipt = await receipt_of(await service_that_believes(0.86))
    assert receipt.arms_tried == ("direct/direct",)
    assert receipt.confidence == pytest.approx(0.86)


async def test_a_rung_that_is_not_worth_its_tokens_is_not_climbed() -> None:
    """Less than was predicted, and tokens at a price that only a bad answer justifies."""
    doubtful = await service_that_believes(0.78, cost_weight=1.0)
    receipt = await receipt_of(doubtful)
    assert receipt.arms_tried == ("direct/direct",)
    assert "consistency/sc8 would add" in receipt.reasons[-1]
    wrong = await service_that_believes(0.02, cost_weight=1.0)
    assert (await receipt_of(wrong)).arms_tried == ("direct/direct", "consistency/sc8")


async def test_a_classifier_that_judges_nothing_leaves_it_to_the_prediction() -> None:
    service = await start_service(says("Answer: 7"), LIKELY)
    receipt = await receipt_of(service)
    assert receipt.arms_tried == ("direct/direct",)
    assert receipt.confidence is None


async def test_an_engine_without_log_probabilities_leaves_the_prior() -> None:
    service = await start_service(says("Answer: 7", logprobs=False), LIKELY, confidences=always(0.1))
    receipt = await receipt_of(service)
    assert receipt.confidence == pytest.approx(0.85)
    assert receipt.arms_tried == ("direct/direct",)


async def test_choices_are_not_judged() -> None:
    service = await service_that_believes(0.1)
    receipt = await receipt_of(service, n=2)
    assert receipt.confidence is None
    assert receipt.arms_tried == ("direct/direct",)


async def shown(stream: ReplyStream) -> tuple[list[str], Receipt]:
    events = [event async for event in stream.events]
    return [event.text for event in events if isinstance(event, TextDelta)], events[-1].receipt  # type: ignore[union-attr]


async def test_what_was_shown_as_it_came_stands_and_its_doubt_is_told() -> None:
    service = await service_that_believes(0.3)
    texts, receipt = await shown(await service.pipeline.stream(ACME, request()))
    assert "".join(texts) == "Answer: 7"
    assert len(service.engine.calls) == 1
    assert receipt.confidence == pytest.approx(0.3)
    assert "shown as it was generated" in receipt.reasons[-1]


async def test_what_may_be_climbed_is_not_shown_before_it_is_accepted() -> None:
    for believed, calls in ((0.95, 1), (0.05, 4)):
        service = await service_that_believes(believed, UNLIKELY, target=0.99, cost_weight=0.5)
        texts, receipt = await shown(await service.pipeline.stream(ACME, request()))
        assert texts == ["Answer: 7"]
        assert len(service.engine.calls) == calls, receipt.reasons


# -- what is judged

RESULT = TierResult("direct", ("7",), "7", "stop", "complete", None, None, 1, 1, 0, spend=None)  # type: ignore[arg-type]
STEP = Step("direct/direct", "direct", "direct", {}, 64, 100, 0.5, 60.0, 0.9)


def judged(result: TierResult, step: Step = STEP) -> list[SampleFacts]:
    seen: list[SampleFacts] = []

    def judge(arm: str, facts: SampleFacts) -> float:
        assert arm == step.arm
        seen.append(facts)
        return 0.5

    found = confidence_in(step, result, judge)
    assert found == (0.5 if seen else result.confidence)
    return seen


def test_the_facts_are_the_samples() -> None:
    cut = Sample("and so on", None, "length", 64, mean_logprob=-0.7)
    assert judged(replace(RESULT, samples=(cut,))) == [SampleFacts(-0.7, 64, cut=True, answered=False)]
    whole = Sample("7", "7", "stop", 3)
    assert judged(replace(RESULT, samples=(carried("8"), whole))) == [
        SampleFacts(None, 3, cut=False, answered=True)
    ]


@pytest.mark.parametrize(
    ("result", "step"),
    [
        (replace(RESULT, texts=("7", "8"), samples=(carried("7"), carried("8"))), STEP),
        (replace(RESULT, samples=(carried("7"),), stop_reason="deadline"), STEP),
        (replace(RESULT, samples=(carried("7"),), confidence=0.4), STEP),
        (replace(RESULT, samples=(carried("7"),)), replace(STEP, strategy="self_consistency")),
    ],
)
def test_what_a_judge_is_not_asked(result: TierResult, step: Step) -> None:
    assert judged(result, step) == []


def test_without_a_judge_there_is_no_confidence() -> None:
    assert confidence_in(STEP, replace(RESULT, samples=(carried("7"),)), None) is None


# -- the rule


def ladder(p: float, then: float, price: float, target: float = 1.0) -> Plan:
    first = replace(STEP, p=p)
    second = replace(STEP, arm="consistency/sc8", tier="consistency", p=then, net_gain=then - p - price)
    return Plan((first, second), 60.0, (), False, target, "v1")


def accepts(plan: Plan, confidence: float) -> bool:
    return escalate(plan, 0, confidence=confidence, verified=None, stop_reason="complete").accept


def test_the_gain_is_that_of_the_posterior() -> None:
    """The next step mends 0.3 / 0.8 of the wrong answers: at 0.04 it pays while at most 0.893 is believed."""
    plan = ladder(0.2, 0.5, price=0.04)
    assert not accepts(plan, 0.893)
    assert accepts(plan, 0.894)
    assert accepts(ladder(0.2, 0.5, price=0.4), 0.0)


shares = st.floats(0.0, 1.0)


@given(shares, shares, st.floats(0.0, 0.5), shares, shares, shares)
def test_more_confidence_never_climbs_further(
    p: float, then: float, price: float, target: float, one: float, other: float
) -> None:
    plan = ladder(p, then, price, target)
    low, high = sorted((one, other))
    assume(accepts(plan, low))
    assert accepts(plan, high)


@given(st.floats(0.0, 0.999), shares, st.floats(0.0, 0.5))
def test_a_free_step_that_helps_is_always_taken_below_the_threshold(p: float, then: float, c: float) -> None:
    assume(then > p + 1e-6)
    assert not accepts(ladder(p, then, price=-1e-9), c)


def test_a_vote_climbs_on_weak_evidence_alone() -> None:
    """Its confidence is that it is settled, not that it is right: nothing can be reckoned with it."""
    plan = ladder(0.2, 0.5, price=0.4)
    vote = replace(plan.start, strategy="self_consistency")
    assert not accepts(replace(plan, steps=(vote, plan.steps[1])), 0.5)
