"""P(True): one token a reply, counted as a verifier's, and read for what it is."""

from __future__ import annotations

import asyncio
import random
from math import log

import pytest

from backends.engines.base import Completion, Generation
from backends.engines.fake import FakeConfig, FakeEngine, FakeFailure
from backends.errors import BudgetTooSmall, EngineUnavailable, StrategyUnsupported
from backends.strategies.base import Call
from backends.task import Sample
from backends.verifiers.p_true import ASKED, _probability, p_true
from tests.tasks import run_on, says, task


def reply(text: str) -> Sample:
    return Sample(text, text, "stop", 3)


def said(text: str, logprob: float, *, tops: tuple[tuple[str, float], ...] = ()) -> float | None:
    done = Completion(text, "length", 10, 1, logprobs=(logprob,))
    if tops:
        done = Completion(
            text,
            "length",
            10,
            1,
            logprobs=(logprob,),
            top_logprobs=(tuple(p for _, p in tops),),
            top_tokens=(tuple(t for t, _ in tops),),
        )
    return _probability(Call(10, completion=done))


@pytest.mark.parametrize(
    ("text", "probability"),
    [
        ("Yes", 0.8),
        (" yes", 0.8),
        ("**True", 0.8),
        ("No", 0.2),
        (" false.", 0.2),
        ("Maybe", None),
        ("Not", None),
        ("", None),
    ],
)
def test_the_token_says_yes_or_no(text: str, probability: float | None) -> None:
    found = said(text, log(0.8))
    assert found is None if probability is None else found == pytest.approx(probability)


def test_the_alternatives_say_more_than_the_token() -> None:
    tops = (("No", log(0.4)), ("Yes", log(0.3)), (" yes", log(0.2)), ("Well", log(0.1)))
    assert said("No", log(0.4), tops=tops) == pytest.approx(0.5 / 0.9)
    assert said("Well", log(0.9), tops=(("Well", log(0.9)), ("Yes", log(0.001)))) is None


async def test_each_text_is_asked_about_once_after_the_conversation_as_it_was_drawn() -> None:
    def script(generation: Generation, rng: random.Random) -> str:
        return "Yes" if "seven" in generation.messages[-2].content else "No"

    engine = FakeEngine(FakeConfig(), script=script)
    run = await run_on(engine, task(think=True))
    scores = await p_true(run, [reply("seven"), reply("nine"), reply("seven"), reply("  ")])
    assert scores == [1.0, 0.0, 1.0, None]
    assert len(engine.calls) == 2
    asked = engine.calls[0].generation
    assert asked.messages[:-2] == run.messages()
    assert (asked.messages[-2].role, asked.messages[-1].content) == ("assistant", ASKED)
    assert asked.sampling.max_tokens == 1
    assert asked.sampling.temperature == 0
    spend = run.spend
    assert (spend.verifier, spend.completion_discarded, spend.calls) == (2, 0, 2)
    assert run.longest_unfinished() is None


async def test_it_uses_what_the_engine_tells_of_alternatives() -> None:
    engine = says(("No", 3.0), ("Yes", 1.0), top_logprobs=5)
    run = await run_on(engine, task())
    assert await p_true(run, [reply("seven")]) == [pytest.approx(0.25)]
    assert engine.calls[0].generation.sampling.top_logprobs == 5


async def test_it_needs_log_probabilities() -> None:
    run = await run_on(says("Yes", logprobs=False), task())
    with pytest.raises(StrategyUnsupported, match="log-prob"):
        await p_true(run, ())


async def test_all_or_none_within_the_budget() -> None:
    engine = says("Yes")
    run = await run_on(engine, task(budget_tokens=60))
    with pytest.raises(BudgetTooSmall) as refused:
        await p_true(run, [reply("seven"), reply("nine"), reply("ten")])
    assert run.spend.total == 0
    run = await run_on(engine, task(budget_tokens=refused.value.needed_tokens))
    assert None not in await p_true(run, [reply("seven"), reply("nine"), reply("ten")])
    assert run.spend.total <= refused.value.needed_tokens


async def test_what_does_not_fit_the_context_has_no_score() -> None:
    run = await run_on(says("Yes", context_tokens=60), task())
    assert await p_true(run, [reply("seven"), reply("word " * 60)]) == [1.0, None]


async def test_one_failure_is_a_missing_score_and_all_are_an_error() -> None:
    engine = says("Yes", fail=FakeFailure(kind="unavailable", times=1))
    run = await run_on(engine, task())
    assert sorted(await p_true(run, [reply("seven"), reply("nine")]), key=str) == [1.0, None]
    engine.failure = FakeFailure(kind="unavailable")
    with pytest.raises(EngineUnavailable):
        await p_true(run, [reply("seven"), reply("nine")])


async def test_cancelling_it_stops_the_engine_and_counts_what_was_read() -> None:
    engine = says("Yes", fail=FakeFailure(kind="hang"))
    run = await run_on(engine, task())
    scoring = asyncio.create_task(p_true(run, [reply("seven"), reply("nine")]))
    while engine.active < 2:
        await asyncio.sleep(0)
    scoring.cancel()
    with pytest.raises(asyncio.CancelledError):
        await scoring
    assert engine.active == 0
    assert run.spend.prompt > 0
    assert run.tokens_left() == run.task.budget_tokens - run.spend.total
