"""AB-MCTS on the fake engine: where replies are written from, what they tell, and when it stops."""

from __future__ import annotations

import random
from collections.abc import Sequence
from math import log
from statistics import mean, pstdev
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.engines.base import Generation
from backends.engines.config import FakeConfig
from backends.engines.fake import FakeEngine, tokenize
from backends.strategies.base import Run
from backends.strategies.mcts import BATCH, Branch, MctsResult, mcts, select, thompson
from backends.strategies.tree import Node
from backends.task import Sample
from backends.verifiers.base import VerifySpec
from backends.verifiers.scorers import SCORERS
from tests.tasks import carried, run_on, says, task


async def scored(run: Run, replies: Sequence[Sample]) -> list[float | None]:
    """Good replies are much better, and of the same kind the later ones a little: there is no plateau."""
    base = [0.9 if reply.text.startswith("good") else 0.1 for reply in replies]
    return [score + 0.001 * (run.used + i) for i, score in enumerate(base)]


def endless(first: Sequence[str] = ("good", "poor")) -> FakeEngine:
    """Every reply differs; its first word is one of `first`, unless it is written on."""

    def script(generation: Generation, rng: random.Random) -> str:
        begun = generation.prefix or f"{rng.choice(list(first))}\n"
        return begun + f"step {rng.randrange(10**6)}\nAnswer: {rng.randrange(10**6)}"

    return FakeEngine(FakeConfig(), script=script)


async def explored(engine: FakeEngine, **fields: Any) -> tuple[MctsResult, Run]:
    with patch.dict(SCORERS, scored=scored):
        run = await run_on(engine, task(scorer="scored", **fields))
        return await mcts(run), run


class TestThompson:
    def test_without_observations_it_is_spread_around_the_prior(self) -> None:
        rng = random.Random(1)
        draws = sorted(thompson([], 0.4, rng) for _ in range(4001))
        assert draws[2000] == pytest.approx(0.4, abs=0.03)
        assert draws[-400] - draws[400] > 0.5

    def test_observations_move_and_narrow_it(self) -> None:
        rng = random.Random(1)
        few = [thompson([0.8] * 2, 0.4, rng) for _ in range(2000)]
        many = [thompson([0.8] * 30, 0.4, rng) for _ in range(2000)]
        assert mean(many) == pytest.approx(0.787, abs=0.01)  # (0.4 + 30 * 0.8) / 31
        assert pstdev(many) < pstdev(few) / 3

    def test_the_better_of_two_is_mostly_drawn(self) -> None:
        rng = random.Random(1)
        won = sum(thompson([0.7] * 5, 0.5, rng) > thompson([0.4] * 5, 0.5, rng) for _ in range(1000))
        assert 900 < won < 1000  # and the worse one still has its chances

    @given(seen=st.lists(st.floats(0, 1), max_size=30), prior=st.floats(0, 1), seed=st.integers(0, 100))
    def test_it_is_a_number_and_the_same_for_a_seed(self, seen: list[float], prior: float, seed: int) -> None:
        first = thompson(seen, prior, random.Random(seed))
        assert first == thompson(seen, prior, random.Random(seed))
        assert abs(first) < float("inf")

    def test_a_generator_that_gives_zero_does_not_break_it(self) -> None:
        class Zero(random.Random):
            def gammavariate(self, alpha: float, beta: float) -> float:
                return 0.0

        assert abs(thompson([0.5], 0.5, Zero(1))) < float("inf")


class TestSelect:
    def test_a_node_without_children_is_written_from(self) -> None:
        root = Branch(Node())
        assert select(root, [], random.Random(1)) is root

    def test_it_goes_where_replies_were_good(self) -> None:
        """Leaves 0-9 were drawn at the root and are bad, 10-19 at a child and good, 20-29 at a bad one."""
        values = [0.1] * 10 + [0.9] * 10 + [0.1] * 10
        root = Branch(Node(), new=list(range(10)), deeper=list(range(10, 20)))
        good = Branch(Node("good\n"), root, 1, through=list(range(10, 20)))
        poor = Branch(Node("poor\n"), root, 1, through=list(range(20, 30)))
        root.children = {"good\n": good, "poor\n": poor}
        rng = random.Random(1)
        picked = [select(root, values, rng) for _ in range(200)]
        assert picked.count(good) > 170
        assert picked.count(poor) < 10

    def test_it_stays_where_new_replies_are_better(self) -> None:
        values = [0.9] * 10 + [0.1] * 10
        root = Branch(Node(), new=list(range(10)), deeper=list(range(10, 20)))
        root.children = {"a\n": Branch(Node("a\n"), root, 1, through=list(range(10, 20)))}
        rng = random.Random(1)
        assert [select(root, values, rng) for _ in range(200)].count(root) > 170


class TestSearch:
    async def test_every_draw_is_a_whole_reply(self) -> None:
        result, run = await explored(endless(), max_samples=12)
        assert (result.leaves, result.calls, result.stop_reason) == (12, 12, "max_samples")
        assert all(sample.finish == "stop" and "Answer" in sample.text for sample in result.samples)
        assert run.used == 12

    async def test_the_first_goes_alone_and_then_batches(self) -> None:
        engine = endless()
        together: list[int] = []
        whole = engine.script
        assert whole is not None

        def script(generation: Generation, rng: random.Random) -> str:
            together.append(engine.active)
            return whole(generation, rng)

        engine.script, engine.config = script, FakeConfig(token_delay_s=0.001)
        result, _ = await explored(engine, max_samples=12)
        assert together[0] == 1
        assert max(together) == BATCH
        assert result.rounds == 4  # 1, 5, 5, 1

    async def test_it_goes_deeper_where_it_pays(self) -> None:
        """Half of what is drawn afresh is good, and all that is written on from good is."""
        engine = endless()
        result, _ = await explored(engine, max_samples=40, seed=4)
        prefixes = [call.generation.prefix for call in engine.calls]
        good, poor = (sum(p.startswith(word) for p in prefixes) for word in ("good", "poor"))
        assert good > 10
        assert good > 4 * poor
        assert result.nodes > 3
        assert result.depth >= 1
        assert sum(s.text.startswith("good") for s in result.samples) > 28

    async def test_replies_with_the_same_first_step_share_a_node(self) -> None:
        result, _ = await explored(endless(("good",)), max_samples=4, max_steps=1)
        assert (result.nodes, result.depth) == (2, 1)

    async def test_it_goes_no_deeper_than_its_steps(self) -> None:
        engine = endless()
        result, _ = await explored(engine, max_samples=40, max_steps=1, step_tokens=64)
        assert result.depth == 1
        assert {call.generation.prefix for call in engine.calls} <= {"", "good\n", "poor\n"}

    async def test_a_reply_is_told_to_all_of_its_path(self) -> None:
        roots: list[Branch] = []

        def spied(root: Branch, values: Sequence[float], rng: random.Random) -> Branch:
            roots.append(root)
            return select(root, values, rng)

        engine = FakeEngine(
            FakeConfig(),
            script=lambda g, r: g.prefix + "".join(f"{r.choice('ab')}\n" for _ in range(4)) + f"{r.random()}",
        )
        with patch("backends.strategies.mcts.select", spied):
            result, _ = await explored(engine, max_samples=40)
        assert result.depth > 1
        assert sorted([*roots[0].new, *roots[0].deeper]) == list(range(40))
        branches = [roots[0]]
        for branch in branches:
            branches += branch.children.values()
            below = [i for child in branch.children.values() for i in (*child.new, *child.deeper)]
            assert sorted(branch.deeper) == sorted(below)
            assert set(branch.new) | set(branch.deeper) <= set(branch.through)
            begun = [i for i, s in enumerate(result.samples) if s.text.startswith(branch.node.text)]
            assert set(branch.through) <= set(begun)
        assert len(branches) == result.nodes

    async def test_blank_lines_make_no_node(self) -> None:
        engine = FakeEngine(FakeConfig(), script=lambda g, r: f"\n\nfirst\n\nAnswer: {r.random()}")
        await explored(engine, max_samples=20)
        assert {call.generation.prefix for call in engine.calls} == {"", "\n\nfirst\n"}

    async def test_a_reply_of_one_step_is_no_node(self) -> None:
        result, _ = await explored(
            FakeEngine(FakeConfig(), script=lambda g, r: f"{r.random()}\n"), max_samples=5
        )
        assert (result.nodes, result.depth) == (1, 0)

    async def test_the_same_seed_makes_the_same_search(self) -> None:
        async def texts(seed: int) -> list[tuple[str, str]]:
            engine = endless()
            result, _ = await explored(engine, max_samples=16, seed=seed)
            prefixes = [call.generation.prefix for call in engine.calls]
            return list(zip(prefixes, [s.text for s in result.samples], strict=True))

        assert await texts(3) == await texts(3)
        assert await texts(3) != await texts(4)

    async def test_tokens_and_likelihood_are_those_of_the_whole_path(self) -> None:
        """Afresh all five tokens have probability 1/2; written on from a first step only its three have."""
        engine = says("first step\nAnswer: 7", "second step\nAnswer: 8")
        run = await run_on(engine, task(max_samples=16))
        result = await mcts(run)
        prefixes = [call.generation.prefix for call in engine.calls]
        assert "first step\n" in prefixes
        for prefix, sample in zip(prefixes, result.samples, strict=True):
            assert sample.completion_tokens == len(tokenize(sample.text)) == 5
            assert sample.mean_logprob == pytest.approx(log(0.5) * (3 / 5 if prefix else 1))
        assert run.spend.completion_kept == 5

    async def test_a_longest_reply_is_a_leaf_too(self) -> None:
        result, _ = await explored(says("good " * 50), max_samples=2, max_tokens=10)
        assert {(s.finish, s.completion_tokens) for s in result.samples} == {("length", 10)}


class TestStops:
    async def test_a_verified_reply_ends_it(self) -> None:
        engine = says(("Guess.\nAnswer: 9", 3.0), ("Add.\nAnswer: 7", 1.0))
        check = VerifySpec("number", maximum=8)
        result = await mcts(await run_on(engine, task(max_samples=40, verify=check, seed=3)))
        assert (result.stop_reason, result.sample.answer) == ("verified", "7")

    async def test_a_plateau_ends_it(self) -> None:
        """One reply, then three batches of five that say the same."""
        run = await run_on(says("Add.\nAnswer: 7"), task(max_samples=40))
        result = await mcts(run)
        assert (result.stop_reason, result.leaves) == ("plateau", 16)

    async def test_there_is_no_plateau_while_all_fail_the_check(self) -> None:
        check = VerifySpec("number", maximum=8)
        result, _ = await explored(says("good\nAnswer: 9"), max_samples=20, verify=check)
        assert (result.stop_reason, result.leaves) == ("max_samples", 20)
        assert result.sample.verified is False
        assert result.confidence is None

    async def test_a_vote_that_no_reply_can_change_ends_it(self) -> None:
        evidence = (carried("5", mean_logprob=0.0),) * 3
        engine = says("First.\nAnswer: 7")
        result = await mcts(await run_on(engine, task(max_samples=2, evidence=evidence)))
        assert (result.stop_reason, result.sample.answer) == ("settled", "5")
        assert not engine.calls

    async def test_a_budget_ends_it_with_the_replies_so_far(self) -> None:
        result, run = await explored(endless(), max_samples=40, max_tokens=16, budget_tokens=150)
        assert result.stop_reason == "budget"
        assert 1 < result.leaves < 40
        assert run.spend.total <= 150
