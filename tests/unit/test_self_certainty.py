"""Self-certainty: 0 for a uniform distribution, the more the further from it."""

from __future__ import annotations

from math import log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import StrategyUnsupported
from backends.strategies.direct import direct
from backends.strategies.self_consistency import self_consistency
from backends.task import Sample
from backends.verifiers.self_certainty import certainty, self_certainty
from tests.tasks import run_on, says, task


def test_uniform_is_0() -> None:
    assert certainty([[log(0.25)] * 4]) == pytest.approx(0.0)
    assert certainty([[log(0.1)] * 4]) == pytest.approx(0.0)  # of what the engine told, that is uniform too


def test_by_hand() -> None:
    # k = 2, p = (0.9, 0.1): -1/2 (ln 1.8 + ln 0.2) = 0.5108; (0.5, 0.5) adds 0 and halves the mean.
    assert certainty([[log(0.9), log(0.1)]]) == pytest.approx(0.51083, abs=1e-5)
    assert certainty([[log(0.9), log(0.1)], [log(0.5)] * 2]) == pytest.approx(0.51083 / 2, abs=1e-5)


@pytest.mark.parametrize("told", [[], [[]], [[0.0]], [[0.0], []]])
def test_without_alternatives_there_is_none(told: list[list[float]]) -> None:
    assert certainty(told) is None


def test_a_probability_of_0_is_bounded() -> None:
    assert certainty([[0.0, -3.4e38]]) == pytest.approx(25.0, abs=1.0)
    assert certainty([[0.0, float("-inf")]]) == pytest.approx(25.0, abs=1.0)


@given(st.lists(st.lists(st.floats(-30, 0), min_size=2, max_size=20), min_size=1, max_size=8))
def test_it_is_never_negative_and_does_not_mind_a_common_factor(told: list[list[float]]) -> None:
    value = certainty(told)
    assert value is not None
    assert value >= 0
    shifted = certainty([[logprob - 1.5 for logprob in place] for place in told])
    assert shifted == pytest.approx(value, abs=1e-6)


async def test_draws_ask_for_alternatives_only_where_the_arm_scores_by_it() -> None:
    engine = says(("Answer: 7", 3.0), ("Answer: 9", 1.0), top_logprobs=5)
    run = await run_on(engine, task(max_samples=3, scorer="self_certainty"))
    result = await self_consistency(run)
    assert {call.generation.sampling.top_logprobs for call in engine.calls} == {5}
    assert all(sample.certainty is not None for sample in result.samples)
    assert await self_certainty(run, result.samples) == [sample.certainty for sample in result.samples]

    engine = says("Answer: 7", top_logprobs=5)
    run = await run_on(engine, task(max_samples=3))
    result = await self_consistency(run)
    assert {call.generation.sampling.top_logprobs for call in engine.calls} == {0}
    assert all(sample.certainty is None for sample in result.samples)


async def test_it_needs_an_engine_that_tells_them() -> None:
    run = await run_on(says("x", top_logprobs=1), task())
    with pytest.raises(StrategyUnsupported, match="alternative"):
        await self_certainty(run, ())
    run = await run_on(says("x", top_logprobs=5), task())
    assert await self_certainty(run, [Sample("carried in", None, "stop", 2)]) == [None]
    assert (await direct(run)).sample.certainty is None
