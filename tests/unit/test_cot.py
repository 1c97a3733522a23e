"""A completion that thinks first: the same as direct in everything but what it asks."""

from __future__ import annotations

import pytest

from backends.errors import BudgetTooSmall, DeadlinePassed
from backends.strategies.base import THINK
from backends.strategies.cot import CotResult, cot
from backends.strategies.direct import direct
from backends.task import TextDelta, TierEvent
from backends.verifiers.base import VerifySpec
from tests.tasks import carried, run_on, runner_on, says, task


@pytest.mark.parametrize("think", [True, False])
async def test_it_always_asks_for_the_steps(think: bool) -> None:
    engine = says("Three and four.\nThe answer is 7")
    result = await cot(await run_on(engine, task("What is 3 + 4?", think=think)))
    assert isinstance(result, CotResult)
    assert (result.sample.answer, result.stop_reason, result.confidence) == ("7", "complete", None)
    assert engine.calls[0].generation.messages[-1].content == "What is 3 + 4?" + THINK


async def test_a_schema_gets_its_json_without_thoughts() -> None:
    engine = says('{"a": 1}')
    await cot(await run_on(engine, task(verify=VerifySpec("json_schema", schema={}))))
    assert THINK not in engine.calls[0].generation.messages[-1].content


async def test_direct_that_thinks_is_the_same_completion() -> None:
    engine = says("a", "b", "c", "d")
    thinking = await direct(await run_on(engine, task(think=True, seed=5, temperature=0.9)))
    first = await cot(await run_on(engine, task(think=False, seed=5, temperature=0.9)))
    assert first.samples == thinking.samples
    one, other = (call.generation for call in engine.calls)
    assert one == other


async def test_it_streams_and_draws_choices() -> None:
    events: list[TierEvent] = []
    run = await run_on(says("one two three", delay_s=0.001), task(stream_text=True, choices=2), events)
    result = await cot(run)
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == result.sample.text
    assert len(result.samples) == result.planned == 2


async def test_a_runner_gives_every_choice() -> None:
    runner = await runner_on(says("a", "b", "c"))
    result = await runner.run(task(strategy="cot", choices=3, evidence=(carried("7"),)))
    assert (result.strategy, len(result.texts), result.used) == ("cot", 3, 3)


async def test_a_deadline_gives_the_text_so_far() -> None:
    run = await run_on(says(" word" * 500, delay_s=0.005), task(timeout_s=0.1, max_tokens=500))
    result = await cot(run)
    assert (result.stop_reason, result.sample.finish) == ("deadline", "length")
    assert run.cancelled == 1


async def test_nothing_at_all_is_an_error() -> None:
    with pytest.raises(DeadlinePassed):
        await cot(await run_on(says("late", delay_s=5), task(timeout_s=0.05)))
    run = await run_on(says("x"), task(budget_tokens=40, max_tokens=64))
    with pytest.raises(BudgetTooSmall):
        await cot(run)
    assert run.spend.total == 0
