"""Scores of a reward model: counted, held within the budget, read once a text."""

from __future__ import annotations

import asyncio

import pytest

from backends.errors import BudgetTooSmall, ContextOverflow, EngineUnavailable, StrategyUnsupported
from backends.task import Sample
from backends.verifiers.base import Aggregate, Rewards
from backends.verifiers.fake import FakeRewardModel
from backends.verifiers.reward import reward
from backends.verifiers.scorers import SCORERS
from tests.tasks import run_on, says, task


def reply(text: str) -> Sample:
    return Sample(text, text, "stop", 3)


@pytest.mark.parametrize(("aggregate", "score"), [("last", 0.5), ("min", 0.2), ("mean", 0.5), ("prod", 0.08)])
def test_steps_become_one_score(aggregate: Aggregate, score: float) -> None:
    assert Rewards((0.8, 0.2, 0.5), 10, aggregate).score == pytest.approx(score)


async def test_each_text_is_read_once_and_its_tokens_are_this_runs() -> None:
    model = FakeRewardModel(lambda text: len(text) / 10)
    run = await run_on(says("x"), task("two words"), reward=model)
    assert await reward(run, [reply("abc"), reply("a b"), reply("abc"), reply(" ")]) == [0.3, 0.3, 0.3, None]
    assert sorted(model.calls) == ["a b", "abc"]
    assert (run.spend.prompt, run.spend.completion, run.spend.calls) == (2 + 1 + 2 + 2, 0, 2)
    assert run.tokens_left() == run.task.budget_tokens - run.spend.total


async def test_it_needs_a_model() -> None:
    with pytest.raises(StrategyUnsupported, match="reward"):
        await reward(await run_on(says("x"), task()), ())


async def test_nothing_is_read_where_the_budget_does_not_cover_all() -> None:
    model = FakeRewardModel(lambda text: 1.0)
    run = await run_on(says("x"), task("two words", budget_tokens=5), reward=model)
    with pytest.raises(BudgetTooSmall) as refused:
        await reward(run, [reply("abc"), reply("def")])
    assert (refused.value.needed_tokens, model.calls, run.spend.total) == (6, [], 0)


async def test_a_failed_reading_stays_counted() -> None:
    model = FakeRewardModel(lambda text: 1.0, failure=EngineUnavailable("gone"))
    run = await run_on(says("x"), task("two words"), reward=model)
    with pytest.raises(EngineUnavailable):
        await reward(run, [reply("abc")])
    assert run.spend.prompt == 3
    assert run.tokens_left() == run.task.budget_tokens - 3


async def test_what_does_not_fit_the_reward_model_has_no_score() -> None:
    class Small(FakeRewardModel):
        async def count_tokens(self, messages: object, reply: str) -> int:
            if len(reply) > 5:
                raise ContextOverflow(9, 5)
            return 4

    run = await run_on(says("x"), task(), reward=Small(lambda text: 0.5))
    assert await reward(run, [reply("abc"), reply("much longer")]) == [0.5, None]


async def test_the_models_own_count_is_what_is_charged() -> None:
    class Wordy(FakeRewardModel):
        async def count_tokens(self, messages: object, reply: str) -> int:
            return 100  # a bound

        async def rewards(self, messages: object, reply: str, *, cache_scope: str = "") -> Rewards:
            return Rewards((0.5,), 42)

    run = await run_on(says("x"), task(), reward=Wordy(lambda text: 0.5))
    await reward(run, [reply("abc")])
    assert run.spend.total == 42
    assert run.tokens_left() == run.task.budget_tokens - 42


async def test_cancelling_ends_the_reading_and_counts_it() -> None:
    reading = asyncio.Event()

    class Slow(FakeRewardModel):
        async def rewards(self, messages: object, reply: str, *, cache_scope: str = "") -> Rewards:
            reading.set()
            await asyncio.Event().wait()
            raise AssertionError

    run = await run_on(says("x"), task("two words"), reward=Slow(lambda text: 0.5))
    scoring = asyncio.create_task(reward(run, [reply("abc")]))
    await reading.wait()
    scoring.cancel()
    with pytest.raises(asyncio.CancelledError):
        await scoring
    assert run.spend.prompt == 3


async def test_the_check_is_a_scorer_too() -> None:
    from backends.verifiers.base import VerifySpec

    run = await run_on(says("x"), task(verify=VerifySpec("number", maximum=8)))
    assert await SCORERS["check"](run, [reply("7"), reply("9")]) == [1.0, 0.0]
    run = await run_on(says("x"), task())
    assert await SCORERS["check"](run, [reply("7")]) == [None]


async def test_every_scorer_takes_no_reply() -> None:
    for name, scorer in SCORERS.items():
        run = await run_on(says("x", top_logprobs=5), task(), reward=FakeRewardModel(lambda text: 1.0))
        assert await scorer(run, ()) == [], name
        assert run.spend.total == 0
