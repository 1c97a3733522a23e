"""Each strategy on the fake engine: what it answers, when it stops, and that it never exceeds its budget."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.engines.base import Generation
from backends.engines.config import FakeConfig, FakeFailure
from backends.engines.fake import FakeEngine
from backends.errors import BudgetTooSmall, DeadlinePassed, EngineUnavailable, StrategyUnsupported
from backends.strategies import STRATEGIES
from backends.strategies.beam import BeamResult, beam
from backends.strategies.direct import direct
from backends.strategies.self_consistency import SelfConsistencyResult, self_consistency
from backends.task import Progress, Sample, TextDelta, TierEvent
from backends.verifiers.base import VerifySpec
from tests.tasks import run_on, says, task


def sample(answer: str | None, **fields: object) -> Sample:
    return Sample(f"carried {answer}", answer, "stop", 5, **fields)  # type: ignore[arg-type]


class TestDirect:
    async def test_the_reply_is_the_engines_own(self) -> None:
        run = await run_on(says("Paris."), task())
        result = await direct(run)
        assert result.sample.text == "Paris."
        assert (result.sample.answer, result.stop_reason) == ("paris", "complete")
        assert run.spend.completion_kept == run.spend.completion > 0
        assert run.spend.total == run.spend.prompt + run.spend.completion

    async def test_text_is_shown_as_it_is_generated(self) -> None:
        events: list[TierEvent] = []
        run = await run_on(says("one two three", delay_s=0.001), task(stream_text=True), events)
        result = await direct(run)
        texts = [e.text for e in events if isinstance(e, TextDelta)]
        assert len(texts) > 1
        assert "".join(texts) == result.sample.text

    async def test_choices_are_so_many_samples(self) -> None:
        run = await run_on(says("a", "b", "c"), task(choices=3, temperature=1.0))
        result = await direct(run)
        assert len(result.samples) == 3
        assert run.spend.calls == 3
        assert run.spend.prompt_cached > 0  # the first one warmed the prefix cache

    async def test_choices_that_the_budget_does_not_cover_are_refused_unspent(self) -> None:
        """Room for the first and not for all: drawing it and asking again would pay for it twice."""
        run = await run_on(says("a b c"), task(choices=3, temperature=1.0, budget_tokens=100, max_tokens=64))
        with pytest.raises(BudgetTooSmall) as caught:
            await direct(run)
        assert caught.value.needed_tokens > 3 * 64
        assert run.spend.total == 0

    async def test_a_deadline_gives_the_text_so_far(self) -> None:
        run = await run_on(says(" word" * 500, delay_s=0.005), task(timeout_s=0.1, max_tokens=500))
        result = await direct(run)
        assert result.stop_reason == "deadline"
        assert result.sample.finish == "length"
        assert 0 < run.spend.completion < 500
        assert run.cancelled == 1

    async def test_a_deadline_before_the_first_token_is_an_error(self) -> None:
        run = await run_on(says("late", delay_s=5), task(timeout_s=0.05))
        with pytest.raises(DeadlinePassed):
            await direct(run)

    async def test_a_budget_that_does_not_cover_the_call_is_refused_unspent(self) -> None:
        run = await run_on(says("Paris."), task(budget_tokens=40, max_tokens=64))
        with pytest.raises(BudgetTooSmall) as caught:
            await direct(run)
        assert caught.value.needed_tokens > 64
        assert run.spend.total == 0

    async def test_think_asks_for_reasoning_and_a_schema_does_not(self) -> None:
        engine = says("x")
        await direct(await run_on(engine, task(think=True)))
        schema = VerifySpec("json_schema", schema={})
        await direct(await run_on(engine, task(think=True, verify=schema)))
        asked = [call.generation.messages[-1].content for call in engine.calls]
        assert "step by step" in asked[0]
        assert "step by step" not in asked[1]


class TestSelfConsistency:
    async def test_agreement_stops_it_early(self) -> None:
        run = await run_on(says("Answer: 7"), task(max_samples=16))
        result = await self_consistency(run)
        assert isinstance(result, SelfConsistencyResult)
        assert (result.sample.answer, result.stop_reason) == ("7", "confident")
        assert result.votes.leader_votes == 4  # the smallest unanimous vote at 95 %
        assert result.confidence is not None
        assert result.confidence >= 0.95

    async def test_the_majority_wins_and_not_the_first(self) -> None:
        script = {1: "Answer: 1", 2: "Answer: 2"}
        engine = FakeEngine(FakeConfig(), script=lambda g, _: script.get(g.sampling.seed or 0, "Answer: 2"))
        result = await self_consistency(await run_on(engine, task(max_samples=8)))
        assert result.samples[0].answer == "1"
        assert result.sample.answer == "2"

    async def test_a_settled_vote_stops_without_confidence(self) -> None:
        result = await self_consistency(await run_on(says("Answer: 7"), task(max_samples=3)))
        assert result.stop_reason == "settled"
        assert len(result.samples) == 2

    async def test_no_vote_is_held_over_prose(self) -> None:
        prose = "first line\n" + "word " * 60
        result = await self_consistency(await run_on(says(prose), task(max_samples=16, max_tokens=200)))
        assert result.stop_reason == "no_comparable_answer"
        assert len(result.samples) == 2
        assert result.confidence is None

    async def test_evidence_is_counted_as_votes(self) -> None:
        engine = says("Answer: 7")
        carried = (sample("7"), sample("7"), sample("7"))
        run = await run_on(engine, task(max_samples=16, evidence=carried))
        result = await self_consistency(run)
        assert result.samples[:3] == carried
        assert len(engine.calls) < 4
        assert result.stop_reason == "confident"

    async def test_enough_evidence_costs_nothing_more(self) -> None:
        engine = says("Answer: 7")
        run = await run_on(engine, task(max_samples=16, evidence=(sample("7"),) * 4))
        result = await self_consistency(run)
        assert not engine.calls
        assert run.spend.total == 0
        assert result.sample.text == "carried 7"

    async def test_a_failed_check_casts_no_vote(self) -> None:
        engine = says(("Answer: 99", 9.0), ("Answer: 7", 1.0))
        check = VerifySpec("number", maximum=10)
        run = await run_on(engine, task(max_samples=32, verify=check, budget_tokens=10**6))
        result = await self_consistency(run)
        assert result.sample.answer == "7"
        assert result.sample.verified

    async def test_one_engine_failure_does_not_lose_the_votes(self) -> None:
        engine = says("Answer: 7")
        await engine.start()
        run = await run_on(engine, task(max_samples=16, evidence=(sample("7"), sample("7"))))
        engine.failure = FakeFailure(kind="unavailable")
        result = await self_consistency(run)
        assert (result.sample.answer, result.stop_reason) == ("7", "engine_error")

    async def test_an_engine_that_never_answers_is_an_error(self) -> None:
        engine = says("x", fail=FakeFailure(kind="unavailable"))
        with pytest.raises(EngineUnavailable):
            await self_consistency(await run_on(engine, task(max_samples=4)))

    async def test_the_deadline_gives_the_votes_so_far(self) -> None:
        def slow_after_two(generation: Generation, _: random.Random) -> str:
            return "Answer: 7" if (generation.sampling.seed or 0) <= 2 else " word" * 1000 + "\nAnswer: 8"

        engine = FakeEngine(FakeConfig(token_delay_s=0.002), script=slow_after_two)
        run = await run_on(engine, task(max_samples=8, timeout_s=0.4, max_tokens=2000, budget_tokens=10**6))
        result = await self_consistency(run)
        assert result.stop_reason == "deadline"
        assert result.sample.answer == "7"
        assert run.cancelled > 0
        assert engine.active == 0

    async def test_leaving_early_cancels_every_branch(self) -> None:
        engine = says(" word" * 1000, delay_s=0.01)
        run = await run_on(engine, task(max_samples=8, timeout_s=0.2, max_tokens=1000, budget_tokens=10**6))
        await self_consistency(run)
        assert engine.active == 0
        assert {call.outcome for call in engine.calls} == {"cancelled"}

    async def test_progress_tells_leader_and_tokens(self) -> None:
        events: list[TierEvent] = []
        run = await run_on(says("Answer: 7"), task(max_samples=8, progress=True), events)
        await self_consistency(run)
        told = [e for e in events if isinstance(e, Progress)]
        assert [e.samples_done for e in told] == [1, 2, 4]
        assert told[-1].leader == "7"
        assert told[0].tokens < told[-1].tokens <= run.spend.total

    async def test_draws_have_seeds_of_their_own(self) -> None:
        engine = says("Answer: 1", "Answer: 2")
        await self_consistency(await run_on(engine, task(max_samples=8, seed=10)))
        seeds = Counter(call.generation.sampling.seed for call in engine.calls)
        assert max(seeds.values()) == 1
        assert 10 in seeds


class TestBeam:
    async def test_it_searches_step_by_step(self) -> None:
        engine = says(("First add.\nThen check.\nAnswer: 7", 5.0), ("Guess.\nAnswer: 9", 1.0))
        run = await run_on(engine, task(max_samples=8, width=4))
        result = await beam(run)
        assert isinstance(result, BeamResult)
        assert result.sample.answer == "7"
        assert result.sample.text.endswith("Answer: 7")
        assert result.stop_reason == "leaves"
        assert run.spend.completion_kept < run.spend.completion
        assert run.spend.prompt_cached > 0

    async def test_a_verified_leaf_ends_it(self) -> None:
        engine = says(("Guess.\nAnswer: 9", 5.0), ("Add.\nAnswer: 7", 1.0))
        check = VerifySpec("number", maximum=8)
        run = await run_on(engine, task(max_samples=12, width=4, verify=check, seed=3))
        result = await beam(run)
        assert result.sample.answer == "7"
        assert (result.stop_reason, result.sample.verified) == ("verified", True)

    async def test_it_needs_an_engine_that_continues(self) -> None:
        with pytest.raises(StrategyUnsupported, match="continues a prefix"):
            await beam(await run_on(says("x", continues_prefix=False), task(max_samples=4)))

    async def test_an_endless_reply_ends_at_the_last_step(self) -> None:
        engine = FakeEngine(FakeConfig(), script=lambda g, r: f"step {r.randrange(10**6)}\nmore")
        run = await run_on(engine, task(max_samples=4, width=2, max_steps=5, max_tokens=1000))
        result = await beam(run)
        assert result.stop_reason == "max_steps"
        assert result.sample.text.startswith("step ")

    async def test_the_longest_path_keeps_to_max_tokens(self) -> None:
        engine = FakeEngine(FakeConfig(), script=lambda g, r: f"a b {r.randrange(10**6)}\nmore")
        run = await run_on(engine, task(max_samples=4, width=2, max_steps=30, max_tokens=12))
        result = await beam(run)
        assert result.sample.completion_tokens <= 12
        assert result.sample.finish == "length"


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(STRATEGIES)),
    budget=st.integers(1, 600),
    samples=st.integers(1, 12),
    max_tokens=st.integers(1, 80),
    seed=st.integers(0, 50),
)
async def test_no_strategy_ever_exceeds_its_budget(
    name: str, budget: int, samples: int, max_tokens: int, seed: int
) -> None:
    engine = says("Let me see.\nFive and two.\nAnswer: 7", "Hm.\nAnswer: 8", "Answer: 9 or so")
    what = task(
        budget_tokens=budget,
        max_samples=samples,
        max_tokens=max_tokens,
        seed=seed,
        strategy=name,
        temperature=0.9,
    )
    run = await run_on(engine, what)
    try:
        result = await STRATEGIES[name](run)
    except BudgetTooSmall as short:
        assert run.spend.total == 0
        assert short.needed_tokens > short.budget_tokens
    else:
        assert result.sample.text is not None
    assert run.spend.total <= budget
    assert run.spend.total == sum(c.prompt_tokens + c.completion_tokens for c in engine.calls)
    assert engine.active == 0
