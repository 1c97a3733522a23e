"""What the log hears of a request: answered, from the cache, refused, failed, cancelled, explored."""

from __future__ import annotations

import asyncio
import hashlib
import pickle
from collections import Counter
from typing import Any

import pytest

from backends.engines.base import Message
from backends.engines.fake import FakeEngine, FakeFailure
from backends.verifiers.base import VerifySpec
from classifier.features import extract
from classifier.predictor import Prediction, Predictor
from policies.memory_limits import MemoryLimits
from policies.plan import Ask
from router import errors as told
from router.assembly import HandleClassifier
from router.decisions.digests import draw_of, spec_digest
from router.decisions.log import BEGINNING, MemoryDecisionLog
from router.decisions.record import Decision
from router.decisions.writer import DecisionWriter
from tests.service import (
    ACME,
    CHEAP,
    EASY,
    HARD,
    POLICY,
    ScriptedClassifier,
    TestService,
    request,
    start_service,
)
from tests.tasks import says, until

pytestmark = pytest.mark.unit

EXPLORING = POLICY.replace("quality_target: 0.8", "quality_target: 0.8\n    exploration: {rate: 0.2}")
CLIMBING = {"direct/direct": 0.85, "consistency/sc8": 0.99, "search/beam": 0.99}
NO_CACHE = EXPLORING.replace("exploration:", "cache: {mode: 'off'}\n    exploration:")


async def logging_service(engine: FakeEngine | None = None, **parts: Any) -> TestService:
    writer = DecisionWriter(MemoryDecisionLog(), gather_s=0.0)
    return await start_service(engine, decisions=writer, **parts)


async def logged(service: TestService) -> list[Decision]:
    """All that was logged; nothing is afterwards."""
    writer = service.pipeline._parts.decisions
    assert writer is not None
    await writer.aclose()
    found = [each.decision for each in await writer.log.after(BEGINNING, 10_000)]
    assert None not in found
    return [each for each in found if each is not None]


async def test_an_answer() -> None:
    service = await logging_service(p=HARD)
    reply = await service.pipeline.complete(ACME, request(effort="high", allow_degrade=True))
    (decision,) = await logged(service)
    receipt = reply.receipt
    assert decision.decision_id == receipt.decision_id
    assert (decision.tenant, decision.key_id) == ("acme", "k1")
    assert decision.policy_version == service.policy.version
    assert decision.classifier_version == "scripted"
    assert (decision.outcome, decision.code, decision.cache) == ("answered", None, "bypass")
    assert {arm: each.p for arm, each in decision.arms.items()} == HARD
    assert decision.plan[0] == "consistency/sc8"
    assert decision.starts == {"consistency/sc8": 1.0}
    assert (decision.propensity, decision.explored) == (1.0, False)
    assert decision.tokens == receipt.spend.total
    assert decision.charged_tokens == receipt.charged_tokens
    assert decision.room_tokens == 20_000
    assert (decision.confidence, decision.verified) == (receipt.confidence, None)
    assert decision.messages is None
    assert decision.score is None
    ask = Ask(**decision.ask)
    assert (ask.effort, ask.allow_degrade, ask.tier, ask.max_completion_tokens) == ("high", True, None, 64)
    assert abs(decision.at_ms / 1000 - reply.created_s) < 2
    (rung,) = decision.rungs
    assert (rung.arm, rung.tier, rung.strategy) == ("consistency/sc8", "consistency", "self_consistency")
    assert rung.spec == spec_digest(service.policy.arms["consistency/sc8"])
    assert (rung.samples, rung.tokens) == (receipt.samples_used, receipt.spend.total)
    assert rung.completion_tokens == receipt.spend.completion


async def test_every_rung_is_told() -> None:
    """Answers that the caller's check refuses lead up the ladder."""
    policy = POLICY.replace("quality_target: 0.8", "quality_target: 0.8\n    cost_weight: 0.0")
    service = await logging_service(says("Answer: 7"), p=CLIMBING, policy=policy)
    check = VerifySpec("choice", choices=("8",))
    await service.pipeline.complete(ACME, request(verify=check))
    (decision,) = await logged(service)
    assert [rung.arm for rung in decision.rungs] == list(decision.plan)[: len(decision.rungs)]
    assert len(decision.rungs) > 1
    assert all(rung.verified is False for rung in decision.rungs)
    assert sum(rung.tokens for rung in decision.rungs) == decision.tokens
    assert (decision.verified, decision.reward) == (False, 0.0)


async def test_a_cache_hit_chose_nothing() -> None:
    service = await logging_service()
    for _ in range(2):
        await service.pipeline.complete(ACME, request(temperature=0.0))
        await asyncio.sleep(0.05)
    first, hit = await logged(service)
    assert (first.cache, hit.cache) == ("miss", "hit")
    assert hit.outcome == "answered"
    assert (hit.arms, hit.plan, hit.starts, hit.propensity) == ({}, (), {}, None)
    assert (hit.rungs, hit.tokens, hit.charged_tokens) == ((), 0, 0)
    assert (hit.confidence, hit.verified, hit.reward) == (None, None, None)
    assert hit.ask == first.ask


async def test_those_who_share_a_run_chose_nothing_and_only_the_leader_ran() -> None:
    engine = says("Answer: 7", delay_s=0.01)
    service = await logging_service(engine)
    asked = [service.pipeline.complete(ACME, request(temperature=0.0)) for _ in range(4)]
    replies = await asyncio.gather(*asked)
    decisions = await logged(service)
    assert {each.decision_id for each in decisions} == {each.receipt.decision_id for each in replies}
    (leader,) = [each for each in decisions if each.cache == "miss"]
    assert (leader.propensity, bool(leader.rungs)) == (1.0, True)
    for each in decisions:
        if each is not leader:
            assert (each.outcome, each.cache) == ("answered", "hit")
            assert (each.plan, each.starts, each.tokens, each.confidence) == ((), {}, 0, None)


@pytest.mark.parametrize("whole", [True, False])
async def test_a_stream_is_told_once_it_ends_and_one_that_is_left_as_cancelled(whole: bool) -> None:
    service = await logging_service(says(" word" * 400, delay_s=0.001))
    stream = await service.pipeline.stream(ACME, request(max_completion_tokens=500))
    async for _ in stream.events:
        if not whole:
            break
    await stream.events.aclose()
    writer = service.pipeline._parts.decisions
    assert writer is not None
    await until(lambda: writer.counts.written)
    (decision,) = await logged(service)
    assert decision.outcome == ("answered" if whole else "cancelled")
    assert decision.decision_id == stream.head["x-acr-decision-id"]
    # What a run cost that was left in the middle, its tier charges later: nobody knows it yet.
    assert (decision.tokens > 0, decision.gpu_seconds is not None) == (whole, whole)


async def test_a_request_beyond_the_rate_is_a_refusal_too() -> None:
    limited = POLICY.replace(
        "default_effort: high", "default_effort: high\n    limits: {requests_per_minute: 1}"
    )
    service = await logging_service(policy=limited, limits=MemoryLimits())
    await service.pipeline.complete(ACME, request())
    with pytest.raises(told.RateLimited):
        await service.pipeline.complete(ACME, request())
    first, second = await logged(service)
    assert (first.outcome, second.outcome) == ("answered", "refused")
    assert (second.code, second.arms, second.starts) == ("rate_limit_exceeded", {}, {})


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"model": "nothing"}, "model_not_found"),
        ({"max_completion_tokens": 100_000}, "invalid_value"),
        ({"strategy": "mcts"}, "unsupported_parameter"),
        ({"max_total_tokens": 5}, "request_exceeds_budget"),
    ],
)
async def test_refusals_with_their_code(fields: dict[str, Any], code: str) -> None:
    service = await logging_service()
    with pytest.raises(told.RouterError) as refused:
        await service.pipeline.complete(ACME, request(**fields))
    (decision,) = await logged(service)
    assert decision.decision_id == refused.value.decision_id
    assert (decision.outcome, decision.code) == ("refused", code)
    assert (decision.plan, decision.starts, decision.tokens) == ((), {}, 0)
    assert set(decision.arms) == set(EASY)


@pytest.mark.parametrize("model", ["x" * 256, "what is a zyzzyva?", "\u2028"])
async def test_a_model_that_is_none_is_not_kept_as_it_was_written(model: str) -> None:
    service = await logging_service()
    with pytest.raises(told.ModelNotFound):
        await service.pipeline.complete(ACME, request(model=model))
    (decision,) = await logged(service)
    assert (decision.ask["tier"], decision.code) == ("unknown", "model_not_found")


async def test_a_spent_budget_is_a_refusal() -> None:
    service = await logging_service()

    async def spend() -> None:
        for _ in range(20):
            await service.pipeline.complete(CHEAP, request("word " * 60, max_completion_tokens=200))

    with pytest.raises(told.RouterError):
        await spend()
    *answered, refused = await logged(service)
    assert (refused.outcome, refused.tenant) == ("refused", "cheap")
    assert refused.code in ("insufficient_quota", "request_exceeds_budget")
    assert all(each.outcome == "answered" for each in answered)


async def test_a_dead_engine_is_a_failure_with_what_it_cost() -> None:
    engine = says("one two three four", delay_s=0.001)
    service = await logging_service(engine)
    engine.failure = FakeFailure(kind="unavailable", after_tokens=2)
    with pytest.raises(told.TierUnavailable):
        await service.pipeline.complete(ACME, request(effort="none"))
    (decision,) = await logged(service)
    assert (decision.outcome, decision.code) == ("failed", "tier_unavailable")
    assert decision.tokens == engine.calls[0].prompt_tokens + 2
    assert decision.propensity == 1.0
    assert decision.rungs == ()


async def test_a_caller_who_leaves() -> None:
    engine = says(" word" * 1000, delay_s=0.002)
    service = await logging_service(engine)
    work = asyncio.create_task(service.pipeline.complete(ACME, request(max_completion_tokens=1000)))
    await until(lambda: engine.calls and engine.calls[0].completion_tokens > 5)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    writer = service.pipeline._parts.decisions
    assert writer is not None
    await until(lambda: writer.counts.written)
    (decision,) = await logged(service)
    assert (decision.outcome, decision.code) == ("cancelled", None)
    assert decision.starts == {"direct/direct": 1.0}


async def test_a_caller_who_leaves_before_anything_was_chosen() -> None:
    class Slow(ScriptedClassifier):
        async def predict(self, messages: list[dict[str, str]]) -> Prediction:
            await asyncio.sleep(60)
            raise AssertionError

    service = await logging_service()
    service.pipeline._parts = service.pipeline._trial_parts = _with(service, classifier=Slow(EASY))
    work = asyncio.create_task(service.pipeline.complete(ACME, request()))
    await asyncio.sleep(0.02)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    await asyncio.sleep(0.02)
    (decision,) = await logged(service)
    assert (decision.outcome, decision.plan, decision.starts) == ("cancelled", (), {})


async def test_a_fault_of_ours_is_a_failure_too() -> None:
    class Broken(ScriptedClassifier):
        async def predict(self, messages: list[dict[str, str]]) -> Prediction:
            raise ZeroDivisionError

    service = await logging_service()
    service.pipeline._parts = service.pipeline._trial_parts = _with(service, classifier=Broken(EASY))
    with pytest.raises(ZeroDivisionError):
        await service.pipeline.complete(ACME, request())
    (decision,) = await logged(service)
    assert (decision.outcome, decision.code) == ("failed", "internal_error")


def _with(service: TestService, **parts: Any) -> Any:
    from dataclasses import replace

    return replace(service.pipeline._parts, **parts)


# -- text


async def test_no_text_without_the_tenants_leave() -> None:
    service = await logging_service(says("a reply with zyzzyva in it"))
    await service.pipeline.complete(ACME, request("what is a zyzzyva, a zyzzyva?"))
    writer = service.pipeline._parts.decisions
    assert writer is not None
    await writer.aclose()
    assert isinstance(writer.log, MemoryDecisionLog)
    assert len(writer.log._decisions) == 1
    assert "zyzzyva" not in str(writer.log._decisions)


async def test_text_with_its_leave_within_a_bound() -> None:
    policy = POLICY.replace("default_effort: high", "default_effort: high\n    log_prompts: true")
    writer = DecisionWriter(MemoryDecisionLog(), max_prompt_bytes=20)
    service = await start_service(policy=policy, decisions=writer)
    turns = (Message("system", "a" * 50), Message("user", "b" * 10), Message("user", "é" * 7))
    await service.pipeline.complete(ACME, request(messages=turns))
    await service.pipeline.complete(CHEAP, request("no leave here"))
    opted, other = await logged(service)
    # The last turns are kept, and what does not fit is cut between characters.
    assert opted.messages == ({"role": "user", "content": "b" * 6}, {"role": "user", "content": "é" * 7})
    assert other.messages is None


# -- exploration


async def test_a_request_starts_where_its_id_says_and_its_receipt_says_so() -> None:
    service = await logging_service(p=HARD, policy=NO_CACHE)
    for number in range(60):
        policy = await service.pipeline.complete(ACME, request(f"number {number}", max_completion_tokens=8))
        drawn = draw_of(policy.receipt.decision_id) < 0.2
        assert policy.receipt.explored == drawn
        assert any("drawn by chance" in reason for reason in policy.receipt.reasons) == drawn
    decisions = await logged(service)
    for decision in decisions:
        assert sum(decision.starts.values()) == pytest.approx(1.0)
        assert decision.explored == (draw_of(decision.decision_id) < 0.2)
        assert decision.propensity == decision.starts[decision.plan[0]]
    assert any(decision.explored for decision in decisions)


async def test_what_the_budget_cannot_pay_for_has_no_propensity() -> None:
    """Known when the hold is placed: a minute of 20,000 tokens pays for all arms, one of 400 for fewer."""
    rich = await logging_service(p=HARD, policy=NO_CACHE)
    poor = await logging_service(p=HARD, policy=NO_CACHE.replace("minute: 20000", "minute: 400"))
    for service in (rich, poor):
        await service.pipeline.complete(ACME, request(max_completion_tokens=32))
    (whole,), (part,) = await logged(rich), await logged(poor)
    assert set(whole.starts) == set(HARD)
    assert part.room_tokens == 400
    assert len(part.starts) < len(whole.starts)
    assert sum(part.starts.values()) == pytest.approx(1.0)


async def test_drawn_answers_are_not_kept_for_others() -> None:
    policy = EXPLORING.replace("exploration:", "cache: {mode: all}\n    exploration:")
    service = await logging_service(p=HARD, policy=policy)
    outcomes: Counter[tuple[bool, str]] = Counter()
    for number in range(40):
        for _ in range(2):
            reply = await service.pipeline.complete(ACME, request(f"{number}", max_completion_tokens=8))
            if reply.receipt.cache == "miss":
                drawn = reply.receipt.explored
            await asyncio.sleep(0.002)
            outcomes[(drawn, reply.receipt.cache)] += 1
    assert outcomes[(True, "miss")] >= 1
    assert outcomes[(True, "hit")] == 0
    assert outcomes[(False, "hit")] >= 20


async def test_explain_and_pinned_requests_never_explore() -> None:
    service = await logging_service(p=HARD, policy=NO_CACHE)
    for _ in range(40):
        explained = await service.pipeline.explain(ACME, request())
        assert not explained["plan"].explored
        pinned = await service.pipeline.complete(ACME, request(model="direct", max_completion_tokens=8))
        assert not pinned.receipt.explored
    assert all(each.starts == {each.plan[0]: 1.0} for each in await logged(service))


# -- predictions


async def test_predictions_tell_their_features_from_either_place() -> None:
    predictor = Predictor.load()
    messages = [{"role": "user", "content": "What is 17 * 23?"}]
    here = predictor.predict(messages)
    features = extract(messages)
    assert here.structural == tuple(features.structural.tolist())
    assert here.features == features.digest()
    assert len(here.features) == 16
    assert predictor.predict([{"role": "user", "content": "Who wrote Hamlet?"}]).features != here.features

    class Remote:
        class predict:
            @staticmethod
            async def remote(messages: list[dict[str, str]]) -> Prediction:
                return pickle.loads(pickle.dumps(predictor.predict(messages)))  # noqa: S301

    there = await HandleClassifier(Remote).predict(messages)
    assert (there.features, there.structural, there.ood) == (here.features, here.structural, here.ood)


def test_the_digest_covers_words_and_numbers() -> None:
    one, two = (extract([{"role": "user", "content": text}]) for text in ("red cat", "red cow"))
    assert (one.structural == two.structural).all()
    assert one.digest() != two.digest()
    assert hashlib.sha256(one.structural.tobytes()).hexdigest()[:16] != one.digest()
