"""REBASE: how children are shared out, and what the search makes of it on the fake engine."""

from __future__ import annotations

import random
from collections.abc import Sequence
from math import exp
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backends.engines.base import Generation
from backends.engines.config import FakeConfig
from backends.engines.fake import FakeEngine
from backends.strategies.base import Run
from backends.strategies.rebase import RebaseResult, rebase, widths
from backends.task import Sample
from backends.verifiers.base import VerifySpec
from backends.verifiers.scorers import SCORERS
from tests.tasks import carried, run_on, says, task

rewards = st.lists(st.floats(0, 1), min_size=1, max_size=12)
budgets = st.integers(0, 64)
temperatures = st.floats(0.01, 10)


class TestWidths:
    @given(rewards=rewards, budget=budgets, temperature=temperatures)
    def test_they_add_up_and_none_is_negative(
        self, rewards: list[float], budget: int, temperature: float
    ) -> None:
        shared = widths(rewards, budget, temperature)
        assert sum(shared) == budget
        assert min(shared) >= 0

    @given(rewards=rewards, budget=budgets, temperature=temperatures)
    @example(rewards=[0.3, 0.30000000000000004], budget=1, temperature=10.0)  # equal shares, but for rounding
    def test_a_better_node_never_gets_fewer(
        self, rewards: list[float], budget: int, temperature: float
    ) -> None:
        shared = widths(rewards, budget, temperature)
        for reward, width in zip(rewards, shared, strict=True):
            for other, less in zip(rewards, shared, strict=True):
                assert reward <= other or width >= less

    @given(rewards=rewards, budget=budgets, temperature=temperatures)
    def test_each_is_its_share_rounded(self, rewards: list[float], budget: int, temperature: float) -> None:
        total = sum(exp((reward - max(rewards)) / temperature) for reward in rewards)
        for reward, width in zip(rewards, widths(rewards, budget, temperature), strict=True):
            share = budget * exp((reward - max(rewards)) / temperature) / total
            assert abs(width - share) < 1 + 1e-6

    @given(count=st.integers(1, 12), budget=budgets)
    def test_equals_share_equally(self, count: int, budget: int) -> None:
        shared = widths([0.5] * count, budget, 0.15)
        assert max(shared) - min(shared) <= 1

    def test_by_hand(self) -> None:
        """softmax((.9, .6, .3) / .15) = (.867, .117, .016): of 16 children 13.9, 1.9 and 0.3."""
        assert widths([0.9, 0.6, 0.3], 16, 0.15) == (14, 2, 0)

    def test_a_cold_balance_is_greedy_and_a_warm_one_even(self) -> None:
        assert widths([0.9, 0.8], 8, 0.001) == (8, 0)
        assert widths([0.9, 0.8], 8, 10.0) == (4, 4)


async def scored(run: Run, replies: Sequence[Sample]) -> list[float | None]:
    """.9 for what begins with good, .6 for what begins with fair, .3 for the rest."""
    return [{"good": 0.9, "fair": 0.6}.get(reply.text[:4], 0.3) for reply in replies]


def three() -> FakeEngine:
    """Seeds take turns to begin with good, fair and poor; each writes on for ever with new steps."""

    def script(generation: Generation, rng: random.Random) -> str:
        begin = ("good", "fair", "poor")[((generation.sampling.seed or 1) - 1) % 3]
        return f"{generation.prefix or begin} {rng.randrange(10**6)}\nmore\n"

    return FakeEngine(FakeConfig(), script=script)


async def balanced(engine: FakeEngine, **fields: Any) -> RebaseResult:
    with patch.dict(SCORERS, scored=scored):
        return await rebase(await run_on(engine, task(scorer="scored", seed=1, **fields)))


async def test_better_nodes_have_more_children() -> None:
    engine = three()
    result = await balanced(engine, max_samples=3, max_steps=2, balance_temperature=0.3)
    assert result.widths == ((3,), (2, 1, 0))
    prefixes = [call.generation.prefix[:4] for call in list(engine.calls)[3:6]]
    assert prefixes == ["good", "good", "fair"]


async def test_leaves_take_from_what_is_shared_out() -> None:
    """Three of eight end in the first step, so five children are left for the second."""
    texts = ["Answer: 1", "Answer: 2", "Answer: 3", *(f"step {i}\nAnswer: {i}" for i in range(4, 9))]
    engine = FakeEngine(
        FakeConfig(),
        script=lambda g, r: (
            texts[(g.sampling.seed or 1) - 1] if not g.prefix else g.prefix + f"Answer: {r.random()}"
        ),
    )
    result = await rebase(await run_on(engine, task(max_samples=8, seed=1)))
    assert [sum(step) for step in result.widths] == [8, 5]
    assert (result.leaves, result.calls, result.stop_reason) == (8, 13, "leaves")


@pytest.mark.parametrize("budget", [1, 2, 5, 9])
async def test_it_finds_at_most_as_many_leaves_as_it_may(budget: int) -> None:
    engine = says(*(f"step {i}\nthen {i}\nAnswer: {i}" for i in range(6)))
    result = await rebase(await run_on(engine, task(max_samples=budget)))
    assert 1 <= result.leaves <= budget
    assert result.planned == budget
    assert all(sum(step) <= budget for step in result.widths)


async def test_the_answer_is_the_best_supported() -> None:
    engine = says(("First add.\nThen check.\nAnswer: 7", 5.0), ("Guess.\nAnswer: 9", 1.0))
    run = await run_on(engine, task(max_samples=8, balance_temperature=1.0))
    result = await rebase(run)
    assert (result.sample.answer, result.sample.text) == ("7", "First add.\nThen check.\nAnswer: 7")
    assert result.confidence is not None
    assert 0.5 < result.confidence < 1


async def test_a_vote_that_no_leaf_can_change_ends_it() -> None:
    engine = says("First.\nAnswer: 7")
    evidence = (carried("5", mean_logprob=0.0),) * 4
    result = await rebase(await run_on(engine, task(max_samples=3, evidence=evidence)))
    assert (result.stop_reason, result.sample.answer) == ("settled", "5")
    assert not engine.calls


async def test_a_verified_leaf_ends_it() -> None:
    engine = says("Guess.\nAnswer: 9", "Add.\nAnswer: 7")
    run = await run_on(engine, task(max_samples=12, verify=VerifySpec("number", maximum=8), seed=3))
    result = await rebase(run)
    assert (result.stop_reason, result.sample.answer) == ("verified", "7")


async def test_an_endless_reply_is_finished_after_the_last_step() -> None:
    result = await balanced(three(), max_samples=4, max_steps=4, max_tokens=300)
    assert (result.stop_reason, result.leaves, len(result.widths)) == ("max_steps", 1, 4)
