"""Revisions only where something outside objects, the best kept, and an end to it."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.engines.base import Generation, Message
from backends.engines.config import FakeConfig, FakeFailure
from backends.engines.fake import FakeEngine
from backends.errors import BudgetTooSmall, DeadlinePassed, EngineUnavailable, StrategyUnsupported
from backends.strategies.base import Run
from backends.strategies.refine import AGAIN, RefineResult, refine
from backends.task import Progress, Sample, TierEvent
from backends.verifiers.base import VerifySpec
from backends.verifiers.scorers import SCORERS
from tests.tasks import carried, run_on, says, task

BELOW_8 = VerifySpec("number", maximum=8)


def in_turn(*replies: str, delay_s: float = 0.0) -> FakeEngine:
    """The first call says the first reply, and so on; the last is repeated."""
    said: list[str] = []

    def say(generation: Generation, _: random.Random) -> str:
        said.append(replies[min(len(said), len(replies) - 1)])
        return said[-1]

    return FakeEngine(FakeConfig(token_delay_s=delay_s), script=say)


def rated(**scores: float | None) -> dict[str, object]:
    async def reward(run: Run, replies: Sequence[Sample]) -> list[float | None]:
        return [scores[f"a{reply.answer}"] for reply in replies]

    return {"reward": reward}


async def test_without_a_signal_the_draft_stays() -> None:
    """A model that looks for its own mistakes unasked makes more of them (arXiv 2310.01798)."""
    engine = in_turn("Answer: 9", "Answer: 7")
    run = await run_on(engine, task())
    result = await refine(run)
    assert isinstance(result, RefineResult)
    assert (result.sample.answer, result.stop_reason, result.confidence) == ("9", "no_signal", None)
    assert len(engine.calls) == 1
    assert result.objections == ()
    assert run.spend.completion_discarded == 0


async def test_the_check_is_told_and_the_revision_kept() -> None:
    engine = in_turn("Answer: 99", "Answer: 7")
    run = await run_on(engine, task("What is 3 + 4?", verify=BELOW_8))
    result = await refine(run)
    assert (result.sample.answer, result.sample.verified, result.stop_reason) == ("7", True, "verified")
    asked = engine.calls[1].generation.messages
    assert asked[:-1] == (Message("user", "What is 3 + 4?"), Message("assistant", "Answer: 99"))
    assert asked[-1].role == "user"
    assert "at most 8; the reply says 99" in asked[-1].content
    assert asked[-1].content.endswith(AGAIN)
    assert (run.used, run.spend.completion_kept) == (2, 2)


async def test_a_draft_that_passes_is_not_touched() -> None:
    engine = in_turn("Answer: 7", "Answer: 6")
    result = await refine(await run_on(engine, task(verify=BELOW_8)))
    assert (result.stop_reason, len(engine.calls)) == ("verified", 1)


async def test_evidence_is_the_draft_and_is_not_paid_twice() -> None:
    engine = in_turn("Answer: 7")
    votes = (carried("99", verified=False),)
    run = await run_on(engine, task(verify=BELOW_8, evidence=votes))
    result = await refine(run)
    assert (result.sample.answer, len(engine.calls)) == ("7", 1)
    assert engine.calls[0].generation.messages[-2] == Message("assistant", "carried 99")
    free = await run_on(in_turn("x"), task(evidence=(carried("7"),)))
    assert (await refine(free)).stop_reason == "no_signal"
    assert free.spend.total == 0


async def test_at_most_so_many_rounds() -> None:
    engine = in_turn(*(f"Answer: {number}" for number in range(90, 99)))
    result = await refine(await run_on(engine, task(verify=BELOW_8, rounds=3)))
    assert (result.stop_reason, len(engine.calls), result.planned) == ("max_rounds", 4, 4)
    assert len(result.objections) == 3
    assert result.chosen == 0  # none was better


async def test_two_revisions_that_repeat_the_answer_end_it() -> None:
    engine = in_turn("Answer: 99")
    result = await refine(await run_on(engine, task(verify=BELOW_8, rounds=8)))
    assert (result.stop_reason, len(engine.calls)) == ("stalled", 3)


async def test_the_same_objection_again_is_a_stall() -> None:
    engine = in_turn("no", "nothing", "none", "never")
    result = await refine(await run_on(engine, task(verify=BELOW_8, rounds=8)))
    assert (result.stop_reason, len(engine.calls)) == ("stalled", 3)


class TestReward:
    async def test_a_low_reward_asks_for_a_revision(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(SCORERS, "reward", rated(a9=0.2, a7=0.8)["reward"])  # type: ignore[index]
        result = await refine(await run_on(in_turn("Answer: 9", "Answer: 7"), task(scorer="reward")))
        assert (result.sample.answer, result.stop_reason) == ("7", "accepted")

    async def test_the_best_so_far_is_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(SCORERS, "reward", rated(a9=0.3, a7=0.4, a6=0.1, a5=0.2)["reward"])  # type: ignore[index]
        engine = in_turn("Answer: 9", "Answer: 7", "Answer: 6", "Answer: 5")
        run = await run_on(engine, task(scorer="reward", rounds=3))
        result = await refine(run)
        assert (result.sample.answer, result.chosen, result.stop_reason) == ("7", 1, "stalled")
        assert run.spend.completion_kept == run.calls[1].completion_tokens

    async def test_a_good_reward_leaves_the_draft(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(SCORERS, "reward", rated(a9=0.5)["reward"])  # type: ignore[index]
        engine = in_turn("Answer: 9")
        assert (await refine(await run_on(engine, task(scorer="reward")))).stop_reason == "accepted"
        assert len(engine.calls) == 1

    async def test_no_score_is_no_signal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(SCORERS, "reward", rated(a9=None)["reward"])  # type: ignore[index]
        result = await refine(await run_on(in_turn("Answer: 9"), task(scorer="reward")))
        assert result.stop_reason == "no_signal"

    async def test_a_score_without_a_bar_ranks_and_objects_to_nothing(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(SCORERS, "reward", rated(a9=-4.0)["reward"])  # type: ignore[index]
        engine = in_turn("Answer: 9")
        result = await refine(await run_on(engine, task(scorer="reward")))
        assert (result.stop_reason, len(engine.calls)) == ("no_signal", 1)

    async def test_a_wrong_sum_is_shown(self) -> None:
        engine = in_turn("3 + 4 = 8. Answer: 8", "3 + 4 = 7. Answer: 7")
        result = await refine(await run_on(engine, task(scorer="arithmetic")))
        assert "This does not hold: 3 + 4 = 8." in engine.calls[1].generation.messages[-1].content
        assert (result.sample.answer, result.stop_reason) == ("7", "accepted")

    async def test_the_models_own_likelihood_is_no_signal(self) -> None:
        engine = in_turn("Answer: 9", "Answer: 7")
        result = await refine(await run_on(engine, task(scorer="logprob")))
        assert (result.stop_reason, len(engine.calls)) == ("no_signal", 1)

    async def test_a_scorer_that_cannot_work_is_refused_unspent(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def missing(run: Run, replies: Sequence[Sample]) -> list[float | None]:
            raise StrategyUnsupported("no reward model here")

        monkeypatch.setitem(SCORERS, "reward", missing)  # type: ignore[index]
        engine = in_turn("x")
        with pytest.raises(StrategyUnsupported):
            await refine(await run_on(engine, task(scorer="reward")))
        assert not engine.calls


class TestDisagreement:
    VOTES = (carried("7"), carried("9"))

    async def test_other_answers_are_told(self) -> None:
        engine = in_turn("Answer: 9")
        result = await refine(await run_on(engine, task(evidence=self.VOTES)))
        told = engine.calls[0].generation.messages
        assert told[-2] == Message("assistant", "carried 7")
        assert "came to a different answer: 9." in told[-1].content
        # Nine, and nine again after being told of the seven.
        assert (result.sample.answer, result.stop_reason, len(engine.calls)) == ("9", "settled", 2)
        assert result.chosen == 1  # the sample that was carried in: paid for already, and as good

    async def test_a_draft_that_stands_its_ground_settles_it(self) -> None:
        engine = in_turn("Answer: 7")
        result = await refine(await run_on(engine, task(evidence=self.VOTES)))
        assert (result.sample.answer, result.stop_reason, len(engine.calls)) == ("7", "settled", 1)

    async def test_a_confident_vote_is_no_disagreement(self) -> None:
        votes = (*(carried("7"),) * 7, carried("9"))
        run = await run_on(in_turn("x"), task(evidence=votes))
        assert (await refine(run)).stop_reason == "no_signal"
        assert run.spend.total == 0

    async def test_agreement_is_no_signal(self) -> None:
        run = await run_on(in_turn("x"), task(evidence=(carried("7"), carried("7"), carried(None))))
        assert (await refine(run)).stop_reason == "no_signal"

    async def test_the_majority_is_the_draft(self) -> None:
        engine = in_turn("Answer: 8")
        votes = (carried("9"), carried("8"), carried("8"))
        result = await refine(await run_on(engine, task(evidence=votes)))
        assert engine.calls[0].generation.messages[-2].content == "carried 8"
        assert result.sample.answer == "8"


class TestEnds:
    async def test_a_budget_leaves_the_best_so_far(self) -> None:
        run = await run_on(in_turn("Answer: 99", "Answer: 7"), task(verify=BELOW_8, budget_tokens=100))
        result = await refine(run)
        assert (result.sample.answer, result.stop_reason) == ("99", "budget")
        assert run.spend.total <= 100

    async def test_a_deadline_leaves_the_best_so_far(self) -> None:
        engine = in_turn("Answer: 99", " word" * 900, delay_s=0.002)
        run = await run_on(engine, task(verify=BELOW_8, timeout_s=0.2, max_tokens=1000))
        result = await refine(run)
        assert (result.sample.answer, result.stop_reason) == ("99", "deadline")
        assert (run.cancelled, engine.active) == (1, 0)

    async def test_a_failing_engine_leaves_the_best_so_far(self) -> None:
        engine = says("x", fail=FakeFailure(kind="unavailable"))
        what = task(verify=BELOW_8, evidence=(carried("99", verified=False),))
        result = await refine(await run_on(engine, what))
        assert (result.sample.answer, result.stop_reason) == ("99", "engine_error")

    async def test_without_a_draft_it_is_an_error(self) -> None:
        with pytest.raises(EngineUnavailable):
            await refine(await run_on(says("x", fail=FakeFailure(kind="unavailable")), task()))
        with pytest.raises(DeadlinePassed):
            await refine(await run_on(says("late", delay_s=5), task(timeout_s=0.05)))
        run = await run_on(says("x"), task(budget_tokens=30))
        with pytest.raises(BudgetTooSmall):
            await refine(run)
        assert run.spend.total == 0

    async def test_revisions_have_seeds_and_progress_of_their_own(self) -> None:
        events: list[TierEvent] = []
        engine = in_turn("Answer: 99", "Answer: 98", "Answer: 97", "Answer: 96")
        run = await run_on(engine, task(verify=BELOW_8, seed=5, progress=True), events)
        await refine(run)
        assert [call.generation.sampling.seed for call in engine.calls] == [5, 6, 7, 8]
        assert [e.samples_done for e in events if isinstance(e, Progress)] == [1, 2, 3, 4]


@settings(max_examples=60, deadline=None)
@given(
    budget=st.integers(1, 600),
    rounds=st.integers(0, 6),
    replies=st.lists(st.sampled_from(["Answer: 7", "Answer: 99", "Hm.\nAnswer: 9 or so", "no"]), min_size=1),
    evidence=st.lists(st.sampled_from(["99", "98", None]), max_size=3),
    check=st.booleans(),
)
async def test_it_keeps_to_its_budget_and_rounds_and_never_gives_a_worse_version(
    budget: int, rounds: int, replies: list[str], evidence: list[str | None], check: bool
) -> None:
    engine = in_turn(*replies)
    votes = tuple(carried(answer, verified=False if check else None) for answer in evidence)
    what = task(
        budget_tokens=budget,
        rounds=rounds,
        max_tokens=20,
        evidence=votes,
        verify=BELOW_8 if check else None,
    )
    run = await run_on(engine, what)
    try:
        result = await refine(run)
    except BudgetTooSmall:
        assert not votes
        assert run.spend.total == 0
    else:
        assert len(result.objections) <= rounds
        assert bool(result.sample.verified) == any(s.verified for s in result.samples)
        assert result.samples[: len(votes)] == votes
    assert run.spend.total <= budget
    assert run.spend.total == sum(c.prompt_tokens + c.completion_tokens for c in engine.calls)
