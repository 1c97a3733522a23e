"""What the tree searches share: budget and reserve, whole answers, stop strings, votes, every way to end."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from math import log
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.engines.base import EngineInfo, Generation, Message, Sampling
from backends.engines.config import FakeConfig, FakeFailure, OpenAIHTTPConfig
from backends.engines.fake import FakeEngine
from backends.engines.openai_http import OpenAIHTTPEngine
from backends.errors import BudgetTooSmall, DeadlinePassed, EngineUnavailable, StrategyUnsupported
from backends.strategies.anytime import TreeResult
from backends.strategies.base import Run
from backends.strategies.beam import beam
from backends.strategies.leaves import Votes
from backends.strategies.mcts import mcts
from backends.strategies.rebase import rebase
from backends.strategies.tree import Node, best_first, distinct
from backends.task import Progress, Sample, TierEvent
from backends.verifiers.base import VerifySpec
from backends.verifiers.scorers import SCORERS
from tests.tasks import carried, run_on, says, task

SEARCHES: Mapping[str, Callable[[Run], Awaitable[TreeResult]]] = {
    "beam": beam,
    "rebase": rebase,
    "mcts": mcts,
}
STEPWISE = ("beam", "rebase")
LONG = "".join(f"Step {i} adds a bit.\n" for i in range(9)) + "Answer: 7"
HM = "Hm, let me think.\n" * 3 + "Answer: 8"
QUESTION = (Message("user", "What is 3 + 4?"),)

every_search = pytest.mark.parametrize("name", list(SEARCHES))


class Mute(FakeEngine):
    """Does not tell which stop string ended a completion."""

    @property
    def info(self) -> EngineInfo:
        return replace(super().info, tells_stop=False)


async def asking(run: Run, replies: Sequence[Sample]) -> list[float | None]:
    """A scorer that pays: the engine is asked about every reply."""
    scores: list[float | None] = []
    for reply in replies:
        asked = (*run.messages(), Message("assistant", reply.text), Message("user", "Right?"))
        await run.call(asked, Sampling(max_tokens=2), verifier=True)
        scores.append(len(reply.text) % 7 / 7)
    return scores


class TestBudget:
    @settings(max_examples=120, deadline=None)
    @given(
        name=st.sampled_from(sorted(SEARCHES)),
        scorer=st.sampled_from(["logprob", "asking"]),
        budget=st.integers(1, 1500),
        samples=st.integers(1, 12),
        max_tokens=st.integers(1, 80),
        step_tokens=st.integers(1, 20),
        subtrees=st.integers(1, 3),
        seed=st.integers(0, 50),
        evidence=st.sampled_from([(), (carried("7", mean_logprob=-0.5),)]),
        delay_s=st.sampled_from([0.0, 0.0002]),
    )
    async def test_it_is_never_exceeded(
        self,
        name: str,
        scorer: str,
        budget: int,
        samples: int,
        max_tokens: int,
        step_tokens: int,
        subtrees: int,
        seed: int,
        evidence: tuple[Sample, ...],
        delay_s: float,
    ) -> None:
        """With calls that a verified leaf or the deadline cancels, and with scoring calls."""
        engine = says(LONG, HM, "Answer: 9 or so", delay_s=delay_s)
        run = await run_on(
            engine,
            task(
                budget_tokens=budget,
                max_samples=samples,
                max_tokens=max_tokens,
                step_tokens=step_tokens,
                subtrees=subtrees,
                scorer=scorer,
                seed=seed,
                evidence=evidence,
                verify=VerifySpec("number", maximum=7) if seed % 2 else None,
                timeout_s=0.02 if delay_s else 30.0,
            ),
        )
        with patch.dict(SCORERS, asking=asking):
            try:
                result = await SEARCHES[name](run)
            except BudgetTooSmall as short:
                assert run.spend.total == 0
                assert not evidence
                assert short.needed_tokens > short.budget_tokens
            except DeadlinePassed:
                assert delay_s
            else:
                assert result.samples[: len(evidence)] == evidence
                assert result.sample.completion_tokens <= max(max_tokens, 5)
        assert run.spend.total <= budget
        assert run.spend.total == sum(c.prompt_tokens + c.completion_tokens for c in engine.calls)
        assert 0 <= run.spend.completion_kept <= run.spend.completion - run.spend.verifier
        assert run.tokens_left() == budget - run.spend.total  # no hold is left behind
        assert engine.active == 0

    @settings(max_examples=80, deadline=None)
    @given(
        name=st.sampled_from(sorted(SEARCHES)),
        scorer=st.sampled_from(["logprob", "asking"]),
        spare=st.integers(0, 1200),
        samples=st.integers(1, 12),
        seed=st.integers(0, 50),
    )
    async def test_a_budget_that_covers_a_reply_ends_with_a_whole_one(
        self, name: str, scorer: str, spare: int, samples: int, seed: int
    ) -> None:
        """However the budget falls between steps, enough is kept back to write one reply to its end."""
        engine = says(LONG, HM)
        await engine.start()
        prompt = await engine.count_prompt_tokens(QUESTION)
        what = task(
            budget_tokens=prompt + 60 + spare,
            max_tokens=60,
            max_steps=30,
            step_tokens=8,
            max_samples=samples,
            scorer=scorer,
            seed=seed,
        )
        run = await run_on(engine, what)
        with patch.dict(SCORERS, asking=asking):
            result = await SEARCHES[name](run)
        assert result.leaves >= 1
        assert result.sample.finish == "stop"
        assert result.sample.text in (LONG, HM)
        assert run.spend.total <= what.budget_tokens

    @pytest.mark.parametrize("name", STEPWISE)
    async def test_the_last_of_it_finishes_the_best_node(self, name: str) -> None:
        """A third of what the search would take: it has gone some steps, and writes on from there."""
        engine = says(LONG)
        run = await run_on(engine, task(budget_tokens=260, max_samples=4, max_tokens=60, step_tokens=8))
        result = await SEARCHES[name](run)
        assert (result.stop_reason, result.leaves) == ("budget", 1)
        assert result.sample.text == LONG
        last = engine.calls[-1].generation
        assert last.prefix.startswith("Step 0")
        assert "\n" not in last.sampling.stop

    @every_search
    async def test_one_that_does_not_cover_a_reply_is_refused_unspent(self, name: str) -> None:
        run = await run_on(says(LONG), task(budget_tokens=66, max_tokens=60))
        with pytest.raises(BudgetTooSmall) as caught:
            await SEARCHES[name](run)
        assert caught.value.needed_tokens > 66
        assert run.spend.total == 0

    @every_search
    async def test_one_that_does_not_cover_a_reply_gives_what_was_carried(self, name: str) -> None:
        run = await run_on(says(LONG), task(budget_tokens=66, max_tokens=60, evidence=(carried("7"),)))
        result = await SEARCHES[name](run)
        assert (result.stop_reason, result.sample.answer, result.leaves) == ("budget", "7", 0)
        assert run.spend.total == 0

    async def test_a_reply_is_no_longer_than_the_steps_of_the_arm(self) -> None:
        run = await run_on(
            says("word " * 500), task(max_samples=2, max_steps=3, step_tokens=10, max_tokens=400)
        )
        result = await beam(run)
        assert result.sample.completion_tokens == 30
        assert result.sample.finish == "length"

    @every_search
    async def test_a_reply_ends_where_the_context_does(self, name: str) -> None:
        engine = says("word " * 500, context_tokens=40)
        run = await run_on(engine, task(max_samples=3, max_tokens=400, step_tokens=48))
        result = await SEARCHES[name](run)
        assert result.sample.finish == "length"
        assert max(c.prompt_tokens + c.completion_tokens for c in engine.calls) <= 40


class TestWhatEndsIt:
    @every_search
    async def test_a_verified_leaf_cancels_the_rest(self, name: str) -> None:
        """The second of the first step is done at once and passes; the others still run."""

        def script(generation: Generation, _: random.Random) -> str:
            return "Answer: 7" if generation.sampling.seed == 2 else "no " * 20 + "\n" + "no " * 400

        engine = FakeEngine(FakeConfig(token_delay_s=0.0005), script=script)
        run = await run_on(
            engine,
            task(
                max_samples=8, step_tokens=30, max_tokens=30, seed=1, verify=VerifySpec("regex", pattern="7")
            ),
        )
        result = await SEARCHES[name](run)
        assert (result.stop_reason, result.sample.verified, result.sample.text) == (
            "verified",
            True,
            "Answer: 7",
        )
        assert run.cancelled > 0
        assert engine.active == 0

    async def test_leaves_are_checked_as_they_arrive_and_not_after_the_step(self) -> None:
        def script(generation: Generation, _: random.Random) -> str:
            return {1: "Answer: 6", 2: "Answer: 7"}.get(generation.sampling.seed or 0, "slow " * 25)

        engine = FakeEngine(FakeConfig(token_delay_s=0.001), script=script)
        check = VerifySpec("number", minimum=7, maximum=7)
        run = await run_on(engine, task(max_samples=6, step_tokens=30, seed=1, verify=check))
        result = await beam(run)
        assert [s.verified for s in result.samples] == [False, True]
        assert [c.outcome for c in engine.calls] == ["done", "done", *["cancelled"] * 4]

    @every_search
    async def test_a_carried_sample_that_passed_ends_it_unspent(self, name: str) -> None:
        engine = says(LONG)
        evidence = (carried("6", verified=False), carried("7", verified=True))
        run = await run_on(engine, task(evidence=evidence, verify=VerifySpec("number", minimum=7)))
        result = await SEARCHES[name](run)
        assert (result.stop_reason, result.sample.answer) == ("verified", "7")
        assert not engine.calls

    @pytest.mark.parametrize("name", STEPWISE)
    async def test_the_deadline_gives_the_best_partial_reply(self, name: str) -> None:
        engine = FakeEngine(FakeConfig(token_delay_s=0.004), script=lambda g, r: f"step {r.random()}\n" * 400)
        run = await run_on(
            engine, task(max_samples=2, timeout_s=0.25, max_tokens=2000, max_steps=500, budget_tokens=10**6)
        )
        result = await SEARCHES[name](run)
        assert (result.stop_reason, result.leaves, result.confidence) == ("deadline", 0, None)
        assert result.sample.text.startswith("step ")
        assert result.sample.finish == "length"
        assert run.spend.completion_kept == result.sample.completion_tokens > 0
        assert engine.active == 0

    @every_search
    async def test_the_deadline_within_the_first_step_gives_its_text(self, name: str) -> None:
        engine = says("word " * 500, delay_s=0.005)
        run = await run_on(engine, task(max_samples=4, timeout_s=0.1, max_tokens=400, step_tokens=400))
        result = await SEARCHES[name](run)
        assert result.stop_reason == "deadline"
        assert result.sample.text.startswith("word word")
        assert run.cancelled == 1

    @every_search
    async def test_the_deadline_before_any_token_is_an_error(self, name: str) -> None:
        run = await run_on(says("late", delay_s=5), task(max_samples=2, timeout_s=0.05))
        with pytest.raises(DeadlinePassed):
            await SEARCHES[name](run)

    @every_search
    async def test_a_dead_engine_is_an_error_where_nothing_is_in_hand(self, name: str) -> None:
        run = await run_on(says(LONG, fail=FakeFailure(kind="unavailable")), task(max_samples=4))
        with pytest.raises(EngineUnavailable):
            await SEARCHES[name](run)

    @every_search
    async def test_a_dead_engine_leaves_what_was_carried(self, name: str) -> None:
        engine = says(LONG, fail=FakeFailure(kind="unavailable"))
        run = await run_on(engine, task(max_samples=4, evidence=(carried("7"),)))
        result = await SEARCHES[name](run)
        assert (result.stop_reason, result.sample.answer) == ("engine_error", "7")

    @every_search
    async def test_an_engine_that_dies_on_the_way_leaves_the_best_so_far(self, name: str) -> None:
        engine = FakeEngine(FakeConfig())

        def script(generation: Generation, rng: random.Random) -> str:
            engine.failure = FakeFailure(kind="unavailable")  # from the second call on
            return f"step {rng.randrange(10**6)}\nstep again\nAnswer: 7"

        engine.script = script
        run = await run_on(engine, task(max_samples=4))
        result = await SEARCHES[name](run)
        assert result.stop_reason == "engine_error"
        assert result.sample.text.startswith("step ")
        assert run.spend.completion_kept == run.spend.completion > 0

    @every_search
    async def test_a_scorer_whose_engine_dies_leaves_the_best_so_far(self, name: str) -> None:
        async def dead(run: Run, replies: Sequence[Sample]) -> list[float | None]:
            if replies:
                raise EngineUnavailable("the judge is away")
            return []

        run = await run_on(says(LONG), task(max_samples=2, scorer="dead"))
        with patch.dict(SCORERS, dead=dead):
            result = await SEARCHES[name](run)
        assert result.stop_reason == "engine_error"
        assert result.sample.text.startswith("Step 0")

    @every_search
    async def test_leaving_cancels_every_branch(self, name: str) -> None:
        engine = says("word " * 400, delay_s=0.01)
        run = await run_on(engine, task(max_samples=8, timeout_s=0.15, max_tokens=400, step_tokens=12))
        await SEARCHES[name](run)
        assert engine.active == 0


class TestWhatItNeeds:
    @every_search
    async def test_an_engine_that_continues_a_prefix(self, name: str) -> None:
        with pytest.raises(StrategyUnsupported, match="continues a prefix"):
            await SEARCHES[name](await run_on(says("x", continues_prefix=False), task()))

    @pytest.mark.parametrize("name", STEPWISE)
    async def test_steps_need_to_know_what_stopped_them(self, name: str) -> None:
        with pytest.raises(StrategyUnsupported, match="which stop string"):
            await SEARCHES[name](await run_on(Mute(), task()))

    async def test_whole_replies_do_not(self) -> None:
        assert (await mcts(await run_on(Mute(), task(max_samples=3)))).leaves > 0

    def test_llama_cpp_over_http_does_not_tell(self) -> None:
        def told(dialect: str) -> bool:
            config = OpenAIHTTPConfig.model_validate(
                {
                    "kind": "openai_http",
                    "base_url": "http://h/v1",
                    "model": "m",
                    "dialect": dialect,
                    "context_tokens": 512,
                }
            )
            return OpenAIHTTPEngine(config).info.tells_stop

        assert [told(d) for d in ("vllm", "llamacpp", "openai")] == [True, False, False]

    @every_search
    async def test_log_probabilities_only_where_they_score(self, name: str) -> None:
        engine = says(LONG, logprobs=False)
        with pytest.raises(StrategyUnsupported, match="log-probabilities"):
            await SEARCHES[name](await run_on(engine, task(max_samples=2)))
        assert not engine.calls
        with patch.dict(SCORERS, asking=asking):
            result = await SEARCHES[name](await run_on(engine, task(max_samples=2, scorer="asking")))
        assert result.sample.answer == "7"

    @every_search
    async def test_a_scorer_that_exists(self, name: str) -> None:
        with pytest.raises(StrategyUnsupported, match="no scorer"):
            await SEARCHES[name](await run_on(says(LONG), task(scorer="taste")))

    async def test_every_scorer_answers_about_nothing_without_a_call(self) -> None:
        """So can a search ask whether the engine has what the scorer needs, before it spends anything."""
        for name, scorer in SCORERS.items():
            run = await run_on(says("x"), task(scorer=name))
            with suppress(StrategyUnsupported):
                assert await scorer(run, ()) == []
            assert not run.calls


class TestStops:
    async def test_a_stop_string_that_two_steps_make_together(self) -> None:
        run = await run_on(says("one\n\ntwo\n\nthree"), task(max_samples=2, stop=("\n\n",)))
        result = await beam(run)
        assert (result.sample.text, result.sample.finish) == ("one", "stop")

    async def test_a_caller_who_stops_at_a_newline_gets_a_line(self) -> None:
        result = await beam(await run_on(says("one\ntwo"), task(max_samples=2, stop=("\n",))))
        assert (result.sample.text, result.sample.finish, result.rounds) == ("one", "stop", 1)

    @every_search
    async def test_a_stop_string_within_a_step(self, name: str) -> None:
        result = await SEARCHES[name](
            await run_on(says("one\ntwo END three"), task(max_samples=2, stop=("END",)))
        )
        assert result.sample.text == "one\ntwo "


class TestDraws:
    @every_search
    async def test_the_first_call_warms_the_cache_for_the_others(self, name: str) -> None:
        engine = FakeEngine(FakeConfig(token_delay_s=0.001), script=lambda g, r: LONG)
        await SEARCHES[name](await run_on(engine, task(max_samples=4)))
        assert engine.calls[0].cached_tokens == 0
        assert all(call.cached_tokens > 0 for call in list(engine.calls)[1:])

    @every_search
    async def test_no_two_share_a_seed_nor_one_with_what_was_carried(self, name: str) -> None:
        engine = says(LONG, HM)
        evidence = (carried("1"), carried("2"), carried("3"))
        await SEARCHES[name](await run_on(engine, task(max_samples=4, seed=10, evidence=evidence)))
        seeds = [call.generation.sampling.seed for call in engine.calls]
        assert len(set(seeds)) == len(seeds)
        assert min(seed for seed in seeds if seed is not None) == 13

    @every_search
    async def test_what_is_kept_are_the_tokens_of_the_answer(self, name: str) -> None:
        run = await run_on(says(LONG, HM), task(max_samples=4))
        result = await SEARCHES[name](run)
        assert run.spend.completion_kept == result.sample.completion_tokens
        assert run.spend.completion_discarded > 0

    @every_search
    async def test_progress_tells_leader_confidence_and_tokens(self, name: str) -> None:
        events: list[TierEvent] = []
        run = await run_on(says(LONG, HM), task(max_samples=4, progress=True), events)
        result = await SEARCHES[name](run)
        told = [event for event in events if isinstance(event, Progress)]
        assert len(told) == result.rounds
        assert (told[-1].samples_done, told[-1].leader) == (result.leaves, result.sample.answer)
        assert told[-1].confidence == result.confidence
        assert [e.tokens for e in told] == sorted(e.tokens for e in told)


class TestEvidence:
    @every_search
    async def test_carried_samples_vote(self, name: str) -> None:
        """Three likely votes for 5 outweigh the leaves for 7, so the answer costs no kept token."""
        evidence = (carried("5", mean_logprob=-0.1),) * 5
        run = await run_on(says(LONG), task(max_samples=2, evidence=evidence))
        result = await SEARCHES[name](run)
        assert result.sample == evidence[0]
        assert run.spend.completion_kept == 0

    @every_search
    async def test_one_that_failed_the_check_does_not(self, name: str) -> None:
        evidence = (carried("50", mean_logprob=-0.1, verified=False),) * 5
        check = VerifySpec("number", maximum=10)
        result = await SEARCHES[name](await run_on(says(LONG), task(evidence=evidence, verify=check)))
        assert (result.sample.answer, result.stop_reason) == ("7", "verified")

    async def test_a_failed_leaf_casts_no_vote(self) -> None:
        engine = says(("Answer: 99", 9.0), ("Answer: 98", 9.0))
        evidence = (carried("7", mean_logprob=-3.0),)
        run = await run_on(
            engine, task(max_samples=6, evidence=evidence, verify=VerifySpec("number", maximum=9))
        )
        result = await mcts(run)
        assert result.sample.answer == "7"
        assert result.confidence is None  # nobody else voted


def votes(*cast: tuple[str | None, float | None], scorer: str = "logprob") -> Votes:
    return Votes(scorer, tuple(carried(answer) for answer, _ in cast), tuple(score for _, score in cast))


ballots = st.lists(
    st.tuples(st.sampled_from(["1", "2", "3", None]), st.none() | st.floats(-5, 0)), min_size=1, max_size=8
)


class TestVotes:
    def test_the_largest_summed_weight_wins_and_its_best_sample_speaks(self) -> None:
        cast = votes(("1", log(0.9)), ("2", log(0.5)), ("2", log(0.6)))
        assert cast.leader() == 2
        assert cast.share(2) == pytest.approx(1.1 / 2.0)

    def test_a_vote_without_a_score_has_the_average_weight(self) -> None:
        assert votes(("1", log(0.2)), ("2", None), ("1", log(0.4))).weights() == pytest.approx(
            [0.2, 0.3, 0.4]
        )
        assert votes(("1", None), ("2", None), ("2", None)).leader() == 1

    def test_a_vote_that_failed_the_check_has_no_weight(self) -> None:
        cast = Votes("logprob", (carried("1", verified=False), carried("2")), (log(0.9), log(0.5)))
        assert cast.weights() == pytest.approx([0.0, 0.5])
        assert cast.leader() == 1
        assert cast.settled(0)
        assert not cast.settled(1)

    def test_a_vote_without_a_score_may_weigh_anything(self) -> None:
        assert not votes(("1", log(0.9)), ("2", None)).settled(0)
        assert votes(("1", log(0.9)), ("1", log(0.9)), ("2", None)).settled(0)

    def test_nobody_leads_an_empty_vote(self) -> None:
        assert votes().leader() is None

    def test_scores_without_a_scale_settle_nothing(self) -> None:
        assert votes(("1", 12.0), ("1", 13.0), scorer="reward").settled(0) is False
        assert votes(("1", 0.9), ("1", 0.8), scorer="p_true").settled(1) is True

    @given(cast=ballots, later=ballots.map(lambda cast: cast[:2]))
    def test_what_is_settled_stays(
        self, cast: list[tuple[str | None, float | None]], later: list[tuple[str | None, float | None]]
    ) -> None:
        before = votes(*cast)
        if before.settled(len(later)):
            first, after = before.leader(), votes(*cast, *later)
            last = after.leader()
            assert first is not None
            assert last is not None
            assert before.samples[first].answer == after.samples[last].answer

    @given(cast=ballots)
    def test_shares_of_all_answers_add_up_to_one(self, cast: list[tuple[str | None, float | None]]) -> None:
        vote = votes(*cast)
        answers = {sample.answer for sample in vote.samples}
        shares = [vote.share([s.answer for s in vote.samples].index(answer)) for answer in answers]
        known = [share for share in shares if share is not None]
        assert all(0 < share <= 1 + 1e-9 for share in known)
        if len(cast) > 1 and None not in answers:
            assert sum(known) == pytest.approx(1.0)


class TestNodes:
    def test_best_first_keeps_the_order_of_equals_and_puts_unscored_last(self) -> None:
        nodes = [Node("a"), Node("b", score=-1.0), Node("c", score=-0.5), Node("d", score=-1.0)]
        assert [node.text for node in best_first(nodes)] == ["c", "b", "d", "a"]

    def test_of_equal_texts_the_first_is_kept(self) -> None:
        nodes = [Node("a", tokens=1), Node("b"), Node("a", tokens=2)]
        assert [(node.text, node.tokens) for node in distinct(nodes)] == [("a", 1), ("b", 0)]
