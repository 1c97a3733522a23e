"""The judge: a knockout in which a preferred position wins nothing."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

import pytest

from backends.engines.base import Generation, Message
from backends.engines.fake import FakeConfig, FakeEngine
from backends.errors import BudgetTooSmall
from backends.task import Sample
from backends.verifiers.judge import judge
from tests.tasks import run_on, task

SHOWN = re.compile(r"Answer A:\n(.*?)\n\nAnswer B:\n(.*?)\n\nWhich", re.DOTALL)


def judged_by(prefers: Callable[[str, str], str]) -> FakeEngine:
    """An engine that answers A or B as `prefers(first, second)` says."""

    def script(generation: Generation, rng: random.Random) -> str:
        shown = SHOWN.search(generation.messages[-1].content)
        assert shown is not None
        return prefers(shown.group(1), shown.group(2))

    return FakeEngine(FakeConfig(), script=script)


def bigger(first: str, second: str) -> str:
    return "A" if int(first) > int(second) else "B"


def reply(text: str) -> Sample:
    return Sample(text, text, "stop", 3)


async def test_the_best_wins_all_its_comparisons() -> None:
    engine = judged_by(bigger)
    run = await run_on(engine, task())
    scores = await judge(run, [reply(text) for text in ("3", "9", "5", "4")])
    assert scores == [0.0, 1.0, 0.5, 0.0]
    assert len(engine.calls) == 6  # three pairs, each in both orders
    assert run.spend.verifier == run.spend.completion > 0


async def test_a_judge_who_prefers_a_position_decides_nothing() -> None:
    for position in ("A", "B"):
        run = await run_on(judged_by(lambda first, second, says=position: says), task())
        assert await judge(run, [reply(text) for text in ("3", "9", "5")]) == [0.5, 0.5, 0.5]


async def test_no_verdict_is_half() -> None:
    run = await run_on(judged_by(lambda first, second: "both are fine"), task())
    assert await judge(run, [reply("3"), reply("9")]) == [0.5, 0.5]


async def test_equal_answers_are_one_candidate() -> None:
    engine = judged_by(lambda first, second: "A" if first == "it is nine" else "B")
    run = await run_on(engine, task())
    nine, also = Sample("it is nine", "9", "stop", 3), Sample("9, I think", "9", "stop", 3)
    assert await judge(run, [nine, reply("3"), also, Sample(" ", None, "stop", 1)]) == [1.0, 0.0, 1.0, None]
    assert len(engine.calls) == 2


async def test_one_candidate_is_not_judged() -> None:
    engine = judged_by(bigger)
    run = await run_on(engine, task())
    assert await judge(run, [reply("3"), reply("3")]) == [None, None]
    assert await judge(run, ()) == []
    assert not engine.calls


async def test_it_is_asked_in_the_callers_conversation() -> None:
    engine = judged_by(bigger)
    turns = (Message("system", "Be terse."), Message("user", "Which is bigger?"))
    run = await run_on(engine, task(messages=turns, think=True))
    await judge(run, [reply("3"), reply("9")])
    asked = engine.calls[0].generation.messages
    assert asked[0] == turns[0]
    assert asked[1].content.startswith("Which is bigger?\n\nTwo answers")


async def test_the_budget_ends_it_between_rounds() -> None:
    replies = [reply(text) for text in ("3", "9", "5", "4")]
    whole = await run_on(judged_by(bigger), task())
    await judge(whole, replies)
    run = await run_on(judged_by(bigger), task(budget_tokens=whole.spend.total - 1))
    assert await judge(run, replies) == [0.0, 1.0, 1.0, 0.0]
    assert run.spend.total <= run.task.budget_tokens
    run = await run_on(judged_by(bigger), task(budget_tokens=10))
    with pytest.raises(BudgetTooSmall):
        await judge(run, replies)
    assert run.spend.total == 0
