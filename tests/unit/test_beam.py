"""Beam search on the fake engine: what it carries on, when it stops, and its subtrees."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import pytest

from backends.engines.base import Generation
from backends.engines.config import FakeConfig
from backends.engines.fake import FakeEngine
from backends.strategies.base import Run
from backends.strategies.beam import BeamResult, beam
from backends.task import Sample
from backends.verifiers.base import VerifySpec
from backends.verifiers.scorers import SCORERS
from tests.tasks import run_on, says, task


async def alphabet(run: Run, replies: Sequence[Sample]) -> list[float | None]:
    """Texts earlier in the alphabet are better."""
    return [1.0 - ord(reply.text[0]) / 256 for reply in replies]


def by_seed(*texts: str) -> FakeEngine:
    """Draws take turns: seed 1 says the first text, seed 2 the second; a begun text is written on."""

    def script(generation: Generation, _: random.Random) -> str:
        begun = [text for text in texts if generation.prefix and text.startswith(generation.prefix)]
        return begun[0] if begun else texts[((generation.sampling.seed or 1) - 1) % len(texts)]

    return FakeEngine(FakeConfig(), script=script)


async def searched(engine: FakeEngine, **fields: Any) -> BeamResult:
    with patch.dict(SCORERS, alphabet=alphabet):
        return await beam(await run_on(engine, task(scorer="alphabet", seed=1, **fields)))


async def test_it_searches_step_by_step() -> None:
    engine = says(("First add.\nThen check.\nAnswer: 7", 5.0), ("Guess.\nAnswer: 9", 1.0))
    run = await run_on(engine, task(max_samples=8, width=4))
    result = await beam(run)
    assert isinstance(result, BeamResult)
    assert result.sample.answer == "7"
    assert result.sample.text.endswith("Answer: 7")
    assert result.stop_reason == "leaves"
    assert (result.leaves, result.rounds) == (2, 3)
    assert run.spend.completion_kept < run.spend.completion
    assert run.spend.prompt_cached > 0


async def test_every_step_stops_at_a_newline_and_reads_what_came_before() -> None:
    engine = says("one\ntwo\nthree")
    await beam(await run_on(engine, task(max_samples=1, step_tokens=9, stop=("END",))))
    asked = [call.generation for call in engine.calls]
    assert [g.prefix for g in asked] == ["", "one\n", "one\ntwo\n"]
    assert {g.sampling.stop for g in asked} == {("\n", "END")}
    assert {g.sampling.max_tokens for g in asked} == {9}


async def test_a_step_without_a_newline_goes_on_in_the_next() -> None:
    result = await beam(await run_on(says("one two three four"), task(max_samples=1, step_tokens=2)))
    assert (result.sample.text, result.rounds) == ("one two three four", 2)
    assert result.sample.completion_tokens == 4


async def test_only_the_best_are_carried_on() -> None:
    engine = by_seed("c\nAnswer: 3", "a\nAnswer: 1", "b\nAnswer: 2")
    result = await searched(engine, max_samples=3, width=1)
    assert [sample.answer for sample in result.samples] == ["1"]
    assert {call.generation.prefix for call in engine.calls} == {"", "a\n"}


async def test_children_are_shared_out_among_the_nodes() -> None:
    engine = by_seed("c\nAnswer: 3", "a\nAnswer: 1", "b\nAnswer: 2")
    await searched(engine, max_samples=6, width=2)
    prefixes = [call.generation.prefix for call in engine.calls]
    assert prefixes == [*[""] * 6, *["a\n", "b\n"] * 3]


async def test_copies_of_a_node_are_one() -> None:
    engine = by_seed("a\nAnswer: 1")
    result = await searched(engine, max_samples=4, width=4)
    assert [call.generation.prefix for call in engine.calls] == [*[""] * 4, *["a\n"] * 4]
    assert result.leaves == 1


async def test_a_step_is_scored_by_the_mean_over_its_path() -> None:
    """The likelier first step loses where it leads to an unlikely second one."""
    run = await run_on(
        says(("x\nAnswer: 1", 5.0), ("x\nAnswer: 2", 3.0), ("y\nAnswer: 3", 2.0)),
        task(max_samples=16, width=4, seed=5),
    )
    result = await beam(run)
    likely = {s.answer: s.mean_logprob for s in result.samples}
    assert likely["1"] is not None
    assert likely["2"] is not None
    assert likely["1"] > likely["2"]
    assert result.sample.answer == "1"


async def test_a_leaf_that_is_not_scored_does_not_vote_with_the_score_of_its_steps() -> None:
    async def steps_only(run: Run, replies: Sequence[Sample]) -> list[float | None]:
        return [None if "Answer" in reply.text else 1.0 - (reply.text[0] == "b") for reply in replies]

    engine = by_seed("a\nAnswer: 1", "b\nAnswer: 2")
    with patch.dict(SCORERS, steps_only=steps_only):
        result = await beam(await run_on(engine, task(scorer="steps_only", seed=1, max_samples=2, width=2)))
    assert sorted(sample.answer or "" for sample in result.samples) == ["1", "2"]
    assert result.confidence == 0.5


class TestSubtrees:
    """Seeds take turns, so the first of two subtrees draws only b at its root and the second only a."""

    async def test_each_keeps_its_own_best(self) -> None:
        engine = by_seed("b\nAnswer: 2", "a\nAnswer: 1")
        result = await searched(engine, max_samples=4, width=2, subtrees=2)
        assert sorted(sample.answer or "" for sample in result.samples) == ["1", "2"]
        assert (result.subtrees, result.stop_reason) == (2, "leaves")

    async def test_where_one_beam_of_the_same_size_keeps_only_the_best(self) -> None:
        engine = by_seed("b\nAnswer: 2", "a\nAnswer: 1")
        result = await searched(engine, max_samples=4, width=1)
        assert [sample.answer for sample in result.samples] == ["1"]

    async def test_they_cost_what_one_beam_does(self) -> None:
        calls = []
        for subtrees in (1, 2, 4):
            result = await searched(by_seed("a\nb\nAnswer: 1"), max_samples=8, width=4, subtrees=subtrees)
            calls.append(result.calls)
        assert calls == [24, 24, 24]

    async def test_one_that_has_its_leaf_rests(self) -> None:
        """The second subtree answers in its second step; the first goes on alone."""
        engine = by_seed("b\nb\nb\nAnswer: 2", "a\nAnswer: 1")
        await searched(engine, max_samples=4, width=2, subtrees=2)
        prefixes = [call.generation.prefix for call in engine.calls]
        assert prefixes[8:] == [*["b\nb\n"] * 2, *["b\nb\nb\n"] * 2]

    async def test_it_rests_even_where_it_could_go_on(self) -> None:
        """The second subtree draws a leaf and a node, which is not carried on beside it."""
        engine = by_seed("b\nAnswer: 1", "Answer: 2", "b\nAnswer: 3", "c\nAnswer: 4")
        await searched(engine, max_samples=4, width=2, subtrees=2)
        prefixes = [call.generation.prefix for call in engine.calls]
        assert prefixes == [*[""] * 4, *["b\n"] * 2]

    async def test_there_are_no_more_than_children(self) -> None:
        result = await searched(by_seed("a\nAnswer: 1"), max_samples=2, width=4, subtrees=4)
        assert result.subtrees == 2


class TestStops:
    async def test_a_verified_leaf_ends_it(self) -> None:
        engine = says(("Guess.\nAnswer: 9", 5.0), ("Add.\nAnswer: 7", 1.0))
        check = VerifySpec("number", maximum=8)
        run = await run_on(engine, task(max_samples=12, width=4, verify=check, seed=3))
        result = await beam(run)
        assert result.sample.answer == "7"
        assert (result.stop_reason, result.sample.verified) == ("verified", True)

    async def test_leaves_that_fail_the_check_do_not_end_it(self) -> None:
        """Two short wrong replies fill a beam of two; the right one takes three steps."""
        engine = by_seed("Answer: 91", "Answer: 92", "a\nb\nAnswer: 7")
        check = VerifySpec("number", maximum=8)
        result = await searched(engine, max_samples=3, width=2, verify=check)
        assert (result.stop_reason, result.sample.answer) == ("verified", "7")

    async def test_a_beam_whose_leaves_all_failed_begins_again(self) -> None:
        """The first four draws fail, the fifth, a second root's first, passes."""
        engine = by_seed(*["Answer: 91", "Answer: 92"] * 2, "Answer: 7")
        result = await searched(engine, max_samples=4, verify=VerifySpec("number", maximum=8))
        assert (result.stop_reason, result.sample.answer, result.rounds) == ("verified", "7", 2)

    async def test_it_begins_again_only_while_there_are_steps(self) -> None:
        check = VerifySpec("number", maximum=8)
        result = await searched(by_seed("Answer: 91"), max_samples=4, max_steps=3, verify=check)
        assert (result.stop_reason, result.calls, result.sample.verified) == ("max_steps", 12, False)

    async def test_an_endless_reply_is_finished_after_the_last_step(self) -> None:
        engine = FakeEngine(FakeConfig(), script=lambda g, r: f"step {r.randrange(10**6)}\nmore")
        run = await run_on(engine, task(max_samples=4, width=2, max_steps=5, max_tokens=1000))
        result = await beam(run)
        assert (result.stop_reason, result.leaves) == ("max_steps", 1)
        assert result.sample.text.startswith("step ")
        assert engine.calls[-1].generation.prefix.count("\n") == 5

    async def test_the_longest_path_keeps_to_max_tokens(self) -> None:
        engine = FakeEngine(FakeConfig(), script=lambda g, r: f"a b {r.randrange(10**6)}\nmore")
        run = await run_on(engine, task(max_samples=4, width=2, max_steps=30, max_tokens=12))
        result = await beam(run)
        assert result.sample.completion_tokens <= 12
        assert result.sample.finish == "length"

    @pytest.mark.parametrize("width", [1, 2, 3])
    async def test_it_stops_at_as_many_leaves_as_it_carries(self, width: int) -> None:
        engine = FakeEngine(
            FakeConfig(),
            script=lambda g, r: f"step {r.randrange(10**6)}\n" if not g.prefix else f"Answer: {r.random()}",
        )
        result = await beam(await run_on(engine, task(max_samples=6, width=width)))
        assert (result.stop_reason, result.rounds) == ("leaves", 2)
        assert result.leaves >= width
        assert result.planned == width
