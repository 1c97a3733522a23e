"""One completion as it comes: streaming, choices, and what a deadline, a budget or an engine leaves of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from backends.engines.config import FakeFailure
from backends.engines.fake import FakeEngine
from backends.errors import BudgetTooSmall, DeadlinePassed, EngineUnavailable
from backends.strategies.base import Run
from backends.strategies.direct import direct
from backends.task import TextDelta, TierEvent
from backends.verifiers.base import VerifySpec
from tests.tasks import carried, run_on, runner_on, says, task


async def test_the_reply_is_the_engines_own() -> None:
    run = await run_on(says("Paris."), task())
    result = await direct(run)
    assert result.sample.text == "Paris."
    assert (result.sample.answer, result.stop_reason) == ("paris", "complete")
    assert run.spend.completion_kept == run.spend.completion > 0
    assert run.spend.total == run.spend.prompt + run.spend.completion


async def test_text_is_shown_as_it_is_generated() -> None:
    events: list[TierEvent] = []
    run = await run_on(says("one two three", delay_s=0.001), task(stream_text=True), events)
    result = await direct(run)
    texts = [e.text for e in events if isinstance(e, TextDelta)]
    assert len(texts) > 1
    assert "".join(texts) == result.sample.text


async def test_choices_are_so_many_samples() -> None:
    run = await run_on(says("a", "b", "c"), task(choices=3, temperature=1.0))
    result = await direct(run)
    assert len(result.samples) == 3
    assert run.spend.calls == 3
    assert run.spend.prompt_cached > 0  # the first one warmed the prefix cache


async def test_choices_that_the_budget_does_not_cover_are_refused_unspent() -> None:
    """Room for the first and not for all: drawing it and asking again would pay for it twice."""
    run = await run_on(says("a b c"), task(choices=3, temperature=1.0, budget_tokens=100, max_tokens=64))
    with pytest.raises(BudgetTooSmall) as caught:
        await direct(run)
    assert caught.value.needed_tokens > 3 * 64
    assert run.spend.total == 0


async def test_a_deadline_gives_the_text_so_far() -> None:
    run = await run_on(says(" word" * 500, delay_s=0.005), task(timeout_s=0.1, max_tokens=500))
    result = await direct(run)
    assert result.stop_reason == "deadline"
    assert result.sample.finish == "length"
    assert 0 < run.spend.completion < 500
    assert run.cancelled == 1


async def test_a_deadline_before_the_first_token_is_an_error() -> None:
    run = await run_on(says("late", delay_s=5), task(timeout_s=0.05))
    with pytest.raises(DeadlinePassed):
        await direct(run)


async def test_a_budget_that_does_not_cover_the_call_is_refused_unspent() -> None:
    run = await run_on(says("Paris."), task(budget_tokens=40, max_tokens=64))
    with pytest.raises(BudgetTooSmall) as caught:
        await direct(run)
    assert caught.value.needed_tokens > 64
    assert run.spend.total == 0


async def test_think_asks_for_reasoning_and_a_schema_does_not() -> None:
    engine = says("x")
    await direct(await run_on(engine, task(think=True)))
    schema = VerifySpec("json_schema", schema={})
    await direct(await run_on(engine, task(think=True, verify=schema)))
    asked = [call.generation.messages[-1].content for call in engine.calls]
    assert "step by step" in asked[0]
    assert "step by step" not in asked[1]


async def test_a_failing_engine_leaves_the_choices_that_were_finished() -> None:
    engine = says("a", "b", "c")

    def fails_from_the_second(event: TierEvent) -> None:
        engine.failure = FakeFailure(kind="unavailable")

    what = task(choices=3, temperature=1.0, stream_text=True)
    await engine.start()
    deadline = asyncio.get_running_loop().time() + 30.0
    run = Run(engine, what, deadline=deadline, emit=fails_from_the_second)
    result = await direct(run)
    assert (len(result.samples), result.stop_reason) == (1, "engine_error")
    assert run.spend.completion_kept > 0


async def test_one_choice_that_fails_is_told() -> None:
    engine = says("a", "b", "c")

    def second_fails(event: TierEvent) -> None:
        engine.failure = FakeFailure(kind="unavailable", times=1)

    what = task(choices=3, temperature=1.0, stream_text=True)
    await engine.start()
    deadline = asyncio.get_running_loop().time() + 30.0
    result = await direct(Run(engine, what, deadline=deadline, emit=second_fails))
    assert (len(result.samples), result.stop_reason) == (2, "engine_error")


async def test_an_engine_that_fails_the_first_choice_is_an_error() -> None:
    with pytest.raises(EngineUnavailable):
        await direct(await run_on(says("a", fail=FakeFailure(kind="unavailable")), task(choices=3)))


async def test_samples_carried_in_go_along_before_the_answer() -> None:
    run = await run_on(says("Answer: 9"), task(evidence=(carried("7"), carried("7"))))
    result = await direct(run)
    assert [sample.answer for sample in result.samples] == ["7", "7", "9"]
    assert result.sample.answer == "9"
    assert result.confidence is None


@pytest.mark.parametrize(
    ("engine", "fields", "reason"),
    [
        (says("x", fail=FakeFailure(kind="unavailable")), {}, "engine_error"),
        (says(" word" * 500, delay_s=0.005), {"timeout_s": 0.05, "max_tokens": 500}, "deadline"),
        (says("x"), {"budget_tokens": 30}, "budget"),
    ],
    ids=["engine", "deadline", "budget"],
)
async def test_a_carried_answer_is_given_where_none_is_finished(
    engine: FakeEngine, fields: dict[str, Any], reason: str
) -> None:
    votes = (carried("7", mean_logprob=-2.0), carried("8", mean_logprob=-1.0))
    run = await run_on(engine, task(evidence=votes, **fields))
    result = await direct(run)
    assert (result.sample.answer, result.stop_reason) == ("8", reason)
    assert result.samples == votes
    assert run.spend.completion_kept == 0


async def test_a_runner_shows_the_choices_and_not_what_was_carried_in() -> None:
    runner = await runner_on(says("a", "b", "c"))
    evidence = (carried("7"),)
    several = await runner.run(task(choices=3, temperature=1.0, evidence=evidence))
    assert len(several.texts) == 3
    assert "carried 7" not in several.texts
    assert several.samples[0].answer == "7"
    single = await runner.run(task(evidence=evidence))
    assert len(single.texts) == 1
    assert single.texts[0] != "carried 7"
