"""Scores that come from a real model's own probabilities: what they are made of has to be exact."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from math import exp

import pytest
import pytest_asyncio

from backends.engines.base import Completion, Generation, Message, Sampling
from backends.engines.config import LlamaCppConfig
from backends.engines.llamacpp import LlamaCppEngine
from backends.strategies.base import Run
from backends.task import Sample, StrategyParams
from backends.verifiers.scorers import SCORERS
from tests.tasks import task

QUESTION = (Message("user", "What is the capital of France?"),)
REPLIES = [Sample(text, text, "stop", 4) for text in ("It is Paris.", "It is Rome.", "It is Paris.")]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def engine() -> AsyncIterator[LlamaCppEngine]:
    made = LlamaCppEngine(LlamaCppConfig(context_tokens=512, parallel=2, threads=1))
    await made.start()
    yield made
    await made.aclose()


def started(engine: LlamaCppEngine, **fields: object) -> Run:
    asked = task(messages=QUESTION, max_tokens=12, **fields)
    deadline = asyncio.get_running_loop().time() + 60
    return Run(engine, asked, deadline=deadline, emit=lambda _: None)  # type: ignore[arg-type]


async def complete(engine: LlamaCppEngine, sampling: Sampling) -> Completion:
    items = [item async for item in engine.generate(Generation(QUESTION, sampling))]
    assert isinstance(items[-1], Completion)
    return items[-1]


@pytest.mark.asyncio(loop_scope="module")
async def test_alternatives_are_a_distribution_with_the_drawn_token_in_it(engine: LlamaCppEngine) -> None:
    done = await complete(engine, Sampling(max_tokens=8, top_logprobs=engine.info.top_logprobs))
    assert len(done.top_logprobs) == len(done.top_tokens) == done.completion_tokens
    for place, tokens, own in zip(done.top_logprobs, done.top_tokens, done.logprobs, strict=True):
        assert len(place) == len(tokens) == engine.info.top_logprobs
        assert list(place) == sorted(place, reverse=True)
        assert sum(map(exp, place)) <= 1.0 + 1e-4
        assert own == pytest.approx(place[0], abs=1e-4)  # greedy
    assert "".join(tokens[0] for tokens in done.top_tokens).startswith(done.text)


@pytest.mark.asyncio(loop_scope="module")
async def test_asking_for_them_changes_nothing_else(engine: LlamaCppEngine) -> None:
    plain = await complete(engine, Sampling(max_tokens=8, temperature=1.0, seed=5))
    told = await complete(engine, Sampling(max_tokens=8, temperature=1.0, seed=5, top_logprobs=20))
    assert (plain.text, plain.completion_tokens) == (told.text, told.completion_tokens)
    assert plain.logprobs == pytest.approx(told.logprobs, abs=1e-3)
    assert plain.top_logprobs == ()


@pytest.mark.asyncio(loop_scope="module")
async def test_p_true_costs_one_token_a_text_and_reuses_the_conversation(engine: LlamaCppEngine) -> None:
    run = started(engine)
    scores = await SCORERS["p_true"](run, REPLIES)
    assert scores[0] == scores[2] is not None
    assert all(score is not None and 0.0 < score < 1.0 for score in scores)
    assert (run.spend.verifier, run.spend.calls) == (2, 2)


@pytest.mark.asyncio(loop_scope="module")
async def test_self_certainty_of_real_draws(engine: LlamaCppEngine) -> None:
    run = started(engine, params=StrategyParams(think=False, scorer="self_certainty", temperature=1.0))
    drawn = [
        call async for call, _ in run.in_launch_order(run.messages(), [run.sampling(i) for i in range(2)])
    ]
    samples = [run.as_sample(call) for call in drawn]
    scores = await SCORERS["self_certainty"](run, samples)
    assert all(score is not None and 0.0 < score < 50.0 for score in scores)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_judge_asks_in_both_orders(engine: LlamaCppEngine) -> None:
    run = started(engine)
    scores = await SCORERS["judge"](run, REPLIES)
    assert run.spend.calls == 2
    assert scores[0] is not None
    assert scores[1] is not None
    assert scores[0] + scores[1] == pytest.approx(1.0)
