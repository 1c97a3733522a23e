"""The life of a request: what is planned, spent, charged and told, and what happens when it goes wrong."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing

import pytest

from backends.engines.config import FakeFailure
from backends.engines.fake import FakeConfig, FakeEngine
from backends.task import Progress, TextDelta
from backends.verifiers.base import VerifySpec
from policies.errors import LeaseNotOpen
from policies.errors import StoreUnavailable as LedgerDown
from policies.memory_ledger import InMemoryLedger
from router import errors as told
from router.request import Reply
from tests.service import ACME, CHEAP, EASY, HARD, KEY, POLICY, TestService, request, start_service
from tests.tasks import says, until


async def settled(service: TestService, tenant: str = "acme") -> int:
    """Tokens charged, once nothing is held any more."""
    async with asyncio.timeout(5):
        while True:
            gauges = await service.gauges(tenant)
            if all(gauge.held == 0 for gauge in gauges.values()):
                break
            await asyncio.sleep(0.01)
    assert len({gauge.used for gauge in gauges.values()}) == 1  # the same in every window
    return gauges["minute"].used


async def test_an_easy_request_is_answered_directly() -> None:
    service = await start_service(p=EASY)
    reply = await service.pipeline.complete(ACME, request())
    receipt = reply.receipt
    assert reply.choices[0].text == "Answer: 7"
    assert (receipt.tier, receipt.strategy, receipt.samples_used) == ("direct", "direct", 1)
    assert receipt.charged_tokens == receipt.spend.total == await settled(service)
    assert receipt.reasons
    assert reply.limits.remaining_requests == 59


async def test_a_hard_request_is_voted_on() -> None:
    service = await start_service(p=HARD)
    receipt = (await service.pipeline.complete(ACME, request())).receipt
    assert (receipt.tier, receipt.strategy, receipt.stop_reason) == (
        "consistency",
        "self_consistency",
        "confident",
    )
    assert receipt.samples_used == 4
    assert receipt.spend.completion_kept < receipt.spend.completion
    assert receipt.charged_tokens == await settled(service)


async def test_effort_changes_what_is_spent() -> None:
    spent = {}
    for effort in ("none", "low", "high"):
        engine = FakeEngine(FakeConfig(), script=lambda g, _: f"Answer: {(g.sampling.seed or 0) % 3}")
        service = await start_service(engine, p=HARD)
        reply = await service.pipeline.complete(ACME, request(effort=effort, seed=5))
        spent[effort] = reply.receipt.spend.total
    assert spent["none"] < spent["low"] < spent["high"]


async def test_a_pinned_tier_is_obeyed() -> None:
    service = await start_service(p=EASY)
    receipt = (await service.pipeline.complete(ACME, request(model="consistency"))).receipt
    assert receipt.tier == "consistency"
    receipt = (await service.pipeline.complete(ACME, request(model="search"))).receipt
    assert (receipt.tier, receipt.strategy) == ("search", "beam")


async def test_the_ladder_carries_evidence_up() -> None:
    """A direct answer that fails the caller's check is the first vote of the next rung."""
    engine = FakeEngine(
        FakeConfig(),
        script=lambda g, r: "Answer: 99" if g.sampling.temperature == 0 else "Answer: 7",
    )
    p = {"direct/direct": 0.85, "consistency/sc8": 0.99, "search/beam": 0.99}
    policy = POLICY.replace("quality_target: 0.8", "quality_target: 0.8\n    cost_weight: 0.0")
    service = await start_service(engine, p=p, policy=policy)
    check = VerifySpec("number", maximum=10)
    receipt = (await service.pipeline.complete(ACME, request(verify=check))).receipt
    assert receipt.arms_tried == ("direct/direct", "consistency/sc8")
    assert receipt.answer == "7"
    assert receipt.verified
    assert receipt.charged_tokens == receipt.spend.total == await settled(service)
    assert sum(c.prompt_tokens + c.completion_tokens for c in engine.calls) == receipt.spend.total


class TestRefusals:
    async def test_keys(self) -> None:
        service = await start_service()
        assert service.pipeline.authenticate(KEY) == ACME
        for key in (None, "", "acr-wrong", KEY + "x"):
            with pytest.raises(told.AuthenticationFailed):
                service.pipeline.authenticate(key)

    @pytest.mark.parametrize(
        ("fields", "error"),
        [
            ({"model": "gpt-4"}, told.ModelNotFound),
            ({"max_completion_tokens": 10**6}, told.InvalidRequest),
            ({"strategy": "magic"}, told.InvalidRequest),
            ({"max_total_tokens": 10}, told.RequestExceedsBudget),
        ],
    )
    async def test_what_cannot_be_planned_costs_nothing(self, fields: dict[str, object], error: type) -> None:
        service = await start_service()
        with pytest.raises(error):
            await service.pipeline.complete(ACME, request(**fields))
        assert await settled(service) == 0
        assert not service.engine.calls

    async def test_a_tier_that_is_not_the_tenants(self) -> None:
        service = await start_service()
        with pytest.raises(told.TierNotAllowed):
            await service.pipeline.complete(CHEAP, request(model="search"))
        assert service.pipeline.models(CHEAP) == ("auto", "direct")
        assert service.pipeline.models(ACME) == ("auto", "direct", "consistency", "search")

    async def test_a_spent_budget(self) -> None:
        service = await start_service(says("word " * 60))
        for _ in range(20):
            try:
                await service.pipeline.complete(CHEAP, request())
            except told.QuotaExhausted:
                break
        with pytest.raises(told.QuotaExhausted) as caught:
            await service.pipeline.complete(CHEAP, request())
        assert caught.value.retry_after_s is not None
        assert not caught.value.retryable
        assert 0 < await settled(service, "cheap") <= 500

    async def test_a_low_budget_gets_a_smaller_plan(self) -> None:
        service = await start_service(says("word " * 400))
        reply = await service.pipeline.complete(CHEAP, request(max_completion_tokens=1000))
        assert reply.receipt.degraded
        assert reply.receipt.spend.total <= 500
        with pytest.raises((told.QuotaExhausted, told.RequestExceedsBudget)):
            await service.pipeline.complete(CHEAP, request(max_completion_tokens=1000, allow_degrade=False))

    async def test_a_prompt_beyond_the_context(self) -> None:
        service = await start_service(says("x", context_tokens=64))
        with pytest.raises(told.ContextTooLong):
            await service.pipeline.complete(ACME, request("word " * 200))
        assert await settled(service) == 0


class TestTrouble:
    async def test_a_longer_prompt_than_estimated_holds_more(self) -> None:
        """One token a byte: what the estimate took for a third of it."""
        service = await start_service(says("ok"), prompt_bytes_per_token=1000.0)
        reply = await service.pipeline.complete(ACME, request("a b c d e f g " * 40))
        assert reply.receipt.spend.prompt > 200
        assert reply.receipt.charged_tokens == await settled(service)

    async def test_a_dead_engine_is_told_and_charged_for_what_it_did(self) -> None:
        engine = says("one two three four", delay_s=0.001)
        service = await start_service(engine)
        engine.failure = FakeFailure(kind="unavailable", after_tokens=2)
        with pytest.raises(told.TierUnavailable) as caught:
            await service.pipeline.complete(ACME, request(effort="none"))
        assert caught.value.retryable
        used = await settled(service)
        assert used == engine.calls[0].prompt_tokens + 2

    async def test_a_dead_rung_hands_over_to_the_next(self) -> None:
        engine = says("Answer: 7", fail=FakeFailure(kind="unavailable", times=1))
        service = await start_service(engine)
        receipt = (await service.pipeline.complete(ACME, request())).receipt
        assert receipt.arms_tried == ("consistency/sc8",)
        assert any("did not answer" in reason for reason in receipt.reasons)
        assert receipt.charged_tokens == receipt.spend.total == await settled(service)

    async def test_text_that_was_shown_is_never_started_again(self) -> None:
        engine = says("one two three four", delay_s=0.005)
        service = await start_service(engine)
        engine.failure = FakeFailure(kind="unavailable", after_tokens=2)
        stream = await service.pipeline.stream(ACME, request())
        shown = []

        async def read() -> None:
            async for event in stream.events:
                shown.append(event)

        with pytest.raises(told.TierUnavailable):
            await read()
        assert "".join(e.text for e in shown if isinstance(e, TextDelta)) == "one two"
        assert await settled(service) == engine.calls[0].prompt_tokens + 2

    async def test_a_reply_that_is_none_is_upstreams_fault(self) -> None:
        service = await start_service(says("x", fail=FakeFailure(kind="empty")))
        with pytest.raises(told.UpstreamFailed):
            await service.pipeline.complete(ACME, request())

    async def test_a_deadline_before_any_token(self) -> None:
        service = await start_service(says("late", delay_s=5))
        with pytest.raises(told.DeadlineExceeded):
            await service.pipeline.complete(ACME, request(deadline_s=0.05))

    async def test_leaving_charges_what_was_generated_and_stops_the_engine(self) -> None:
        engine = says(" word" * 1000, delay_s=0.002)
        service = await start_service(engine)
        work = asyncio.create_task(service.pipeline.complete(ACME, request(max_completion_tokens=1000)))
        await until(lambda: engine.calls and engine.calls[0].completion_tokens > 5)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        used = await settled(service)
        assert used == engine.calls[0].prompt_tokens + engine.calls[0].completion_tokens
        assert engine.active == 0
        await until(lambda: service.limits.released)

    async def test_the_store_is_down(self) -> None:
        class Down(InMemoryLedger):
            async def reserve(self, *_: object) -> int | None:
                raise LedgerDown("refused")

        service = await start_service(ledger=Down())
        with pytest.raises(told.StoreUnavailable) as caught:
            await service.pipeline.complete(ACME, request())
        assert caught.value.retryable
        assert not service.engine.calls
        for rule, tier in (("allow", "consistency"), ("degrade", "direct")):
            policy = POLICY.replace(
                "default_effort: high", f"default_effort: high\n    on_store_error: {rule}"
            )
            service = await start_service(ledger=Down(), policy=policy, p=HARD)
            receipt = (await service.pipeline.complete(ACME, request())).receipt
            assert receipt.tier == tier
            if rule == "allow":
                assert (receipt.charged_tokens, receipt.lease_id) == (0, None)
            else:  # owed, and told to the store when it is back
                assert receipt.charged_tokens == receipt.spend.total
            assert receipt.degraded == (rule == "degrade")


class TestStream:
    async def test_a_direct_answer_streams_as_it_is_generated(self) -> None:
        service = await start_service(says("one two three four", delay_s=0.005))
        stream = await service.pipeline.stream(ACME, request())
        events = [event async for event in stream.events]
        deltas = [e.text for e in events if isinstance(e, TextDelta)]
        reply = events[-1]
        assert isinstance(reply, Reply)
        assert len(deltas) > 1
        assert "".join(deltas) == reply.choices[0].text == "one two three four"
        assert (reply.id, reply.created_s) == (stream.id, stream.created_s)
        assert stream.head["x-acr-decision-id"] == reply.receipt.decision_id
        assert reply.receipt.charged_tokens == await settled(service)

    async def test_a_vote_streams_progress_and_then_the_answer(self) -> None:
        service = await start_service(p=HARD)
        stream = await service.pipeline.stream(ACME, request(progress=True))
        kinds = [type(event) async for event in stream.events]
        assert kinds == [Progress, Progress, Progress, TextDelta, Reply]

    async def test_a_refusal_comes_before_the_stream(self) -> None:
        service = await start_service()
        with pytest.raises(told.ModelNotFound):
            await service.pipeline.stream(ACME, request(model="gpt-4"))

    async def test_leaving_a_stream_settles(self) -> None:
        engine = says(" word" * 1000, delay_s=0.002)
        service = await start_service(engine)
        stream = await service.pipeline.stream(ACME, request(max_completion_tokens=1000))
        async with aclosing(stream.events) as events:  # type: ignore[type-var]
            async for _ in events:
                break
        used = await settled(service)
        assert used == engine.calls[0].prompt_tokens + engine.calls[0].completion_tokens
        assert engine.active == 0

    async def test_leaving_before_the_first_event_settles_too(self) -> None:
        engine = says(" word" * 1000, delay_s=0.002)
        service = await start_service(engine)
        stream = await service.pipeline.stream(ACME, request(max_completion_tokens=1000))
        await stream.events.aclose()  # type: ignore[attr-defined]
        await settled(service)
        assert engine.active == 0
        await until(lambda: service.limits.released)


class TestCache:
    async def test_the_same_request_is_answered_once(self) -> None:
        service = await start_service()
        first = await service.pipeline.complete(ACME, request(temperature=0))
        again = await service.pipeline.complete(ACME, request(temperature=0, request_id="r2"))
        assert (first.receipt.cache, again.receipt.cache) == ("miss", "hit")
        assert again.choices == first.choices
        assert again.id != first.id
        assert (again.receipt.charged_tokens, again.receipt.spend.total) == (0, 0)
        assert again.receipt.saved_tokens == first.receipt.spend.total == await settled(service)
        assert len(service.engine.calls) == 1

    async def test_an_answer_may_be_too_old_for_the_caller(self) -> None:
        service = await start_service()
        await service.pipeline.complete(ACME, request(temperature=0))
        told = [
            (await service.pipeline.complete(ACME, request(temperature=0, max_age_s=age))).receipt.cache
            for age in (3600, 0, 10**9)
        ]
        assert told == ["hit", "miss", "hit"]

    async def test_a_hit_streams_too(self) -> None:
        service = await start_service()
        await service.pipeline.complete(ACME, request(temperature=0))
        stream = await service.pipeline.stream(ACME, request(temperature=0))
        events = [event async for event in stream.events]
        assert [type(e) for e in events] == [TextDelta, Reply]

    @pytest.mark.parametrize(
        "other",
        [
            {"temperature": None},
            {"temperature": 0, "effort": "low"},
            {"temperature": 0, "model": "consistency"},
            {"temperature": 0, "seed": 3},
            {"temperature": 0, "cache_mode": "no-cache"},
            {"temperature": 0, "cache_mode": "no-store"},
        ],
    )
    async def test_what_may_differ_is_computed(self, other: dict[str, object]) -> None:
        service = await start_service()
        await service.pipeline.complete(ACME, request(temperature=0))
        reply = await service.pipeline.complete(ACME, request(**other))
        assert reply.receipt.cache != "hit"

    async def test_identical_requests_in_flight_share_one_run(self) -> None:
        service = await start_service(says("Answer: 7", delay_s=0.01))
        replies = await asyncio.gather(
            *(service.pipeline.complete(ACME, request(temperature=0)) for _ in range(8))
        )
        assert len(service.engine.calls) == 1
        assert sorted(reply.receipt.cache for reply in replies) == ["hit"] * 7 + ["miss"]
        assert sum(reply.receipt.charged_tokens for reply in replies) == await settled(service)

    async def test_a_truncated_answer_is_not_kept(self) -> None:
        service = await start_service(says("word " * 500))
        await service.pipeline.complete(ACME, request(temperature=0))
        again = await service.pipeline.complete(ACME, request(temperature=0))
        assert again.receipt.cache == "miss"

    async def test_a_hit_may_cost_what_the_policy_says(self) -> None:
        policy = POLICY.replace(
            "default_effort: high", "default_effort: high\n    cache: {hit_charge_tokens: 5}"
        )
        service = await start_service(policy=policy)
        first = await service.pipeline.complete(ACME, request(temperature=0))
        again = await service.pipeline.complete(ACME, request(temperature=0))
        assert again.receipt.charged_tokens == 5
        assert await settled(service) == first.receipt.charged_tokens + 5


async def test_the_log_tells_the_decision_and_not_the_prompt(caplog: pytest.LogCaptureFixture) -> None:
    service = await start_service(says("Answer: secret reply"))
    with caplog.at_level("INFO", logger="acr.decisions"):
        reply = await service.pipeline.complete(ACME, request("secret question"))
    (record,) = [r for r in caplog.records if r.name == "acr.decisions"]
    assert json.loads(record.message)["decision_id"] == reply.receipt.decision_id
    assert json.loads(record.message)["charged_tokens"] == reply.receipt.charged_tokens
    assert "secret" not in caplog.text


async def test_explain_spends_nothing() -> None:
    service = await start_service(p=HARD)
    said = await service.pipeline.explain(ACME, request())
    assert said["plan"].start.arm == "consistency/sc8"
    assert said["arms"]["direct/direct"]["p"] == 0.2
    assert not service.engine.calls
    assert await settled(service) == 0


async def test_the_receipts_of_many_add_up_to_the_ledger() -> None:
    engine = says(("Answer: 7", 3.0), ("Answer: 8", 2.0), "Let me see.\nAnswer: 9", delay_s=0.0005)
    service = await start_service(engine, p=HARD)
    models = ("auto", "direct", "consistency", "search")
    work = [
        asyncio.create_task(
            service.pipeline.complete(ACME, request(f"What is {i}?", model=models[i % 4], request_id=f"r{i}"))
        )
        for i in range(24)
    ]
    done = [r for r in await asyncio.gather(*work, return_exceptions=True) if isinstance(r, Reply)]
    assert len(done) >= 4  # the rest found the minute's budget held by others
    assert sum(reply.receipt.charged_tokens for reply in done) == await settled(service)


async def test_a_store_that_lost_its_data_does_not_cost_the_caller_the_answer() -> None:
    class Forgetful(InMemoryLedger):
        async def settle(self, lease_id: str, used_tokens: int, *, exact: bool = False) -> int | None:
            raise LeaseNotOpen(lease_id, "unknown")

    service = await start_service(ledger=Forgetful())
    reply = await service.pipeline.complete(ACME, request())
    assert reply.choices[0].text == "Answer: 7"
    assert reply.receipt.charged_tokens == 0


async def test_a_store_that_goes_away_between_rungs_leaves_the_answer_so_far() -> None:
    class NoMore(InMemoryLedger):
        async def extend(self, lease_id: str, extra_tokens: int, part: str = "") -> int | None:
            raise LedgerDown("gone")

    service = await start_service(says("Answer: 99"), ledger=NoMore())
    check = VerifySpec("number", maximum=10)
    receipt = (await service.pipeline.complete(ACME, request(verify=check))).receipt
    assert receipt.arms_tried == ("direct/direct",)
    assert receipt.degraded
    assert any("no budget could be had" in reason for reason in receipt.reasons)
