"""Votes on the fake engine: when they stop, who wins, and what is done where nothing can be compared."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence

import pytest

from backends.engines.base import Generation
from backends.engines.config import FakeConfig, FakeFailure
from backends.engines.fake import FakeEngine
from backends.errors import BudgetTooSmall, EngineUnavailable, StrategyUnsupported
from backends.stopping import leader_confidence
from backends.strategies.base import Run
from backends.strategies.self_consistency import SelfConsistencyResult, self_consistency
from backends.task import Progress, Sample, TierEvent
from backends.verifiers.base import VerifySpec
from backends.verifiers.scorers import SCORERS
from tests.tasks import carried, run_on, says, task


async def test_agreement_stops_it_early() -> None:
    run = await run_on(says("Answer: 7"), task(max_samples=16))
    result = await self_consistency(run)
    assert isinstance(result, SelfConsistencyResult)
    assert (result.sample.answer, result.stop_reason) == ("7", "confident")
    assert result.votes.leader_votes == 4  # the smallest unanimous vote at 95 %
    assert result.confidence is not None
    assert result.confidence >= 0.95


async def test_the_majority_wins_and_not_the_first() -> None:
    script = {1: "Answer: 1", 2: "Answer: 2"}
    engine = FakeEngine(FakeConfig(), script=lambda g, _: script.get(g.sampling.seed or 0, "Answer: 2"))
    result = await self_consistency(await run_on(engine, task(max_samples=8)))
    assert result.samples[0].answer == "1"
    assert result.sample.answer == "2"


async def test_a_settled_vote_stops_without_confidence() -> None:
    result = await self_consistency(await run_on(says("Answer: 7"), task(max_samples=3)))
    assert result.stop_reason == "settled"
    assert len(result.samples) == 2


async def test_no_vote_is_held_over_prose() -> None:
    prose = "first line\n" + "word " * 60
    result = await self_consistency(await run_on(says(prose), task(max_samples=16, max_tokens=200)))
    assert result.stop_reason == "no_comparable_answer"
    assert len(result.samples) == 2
    assert result.confidence is None


async def test_evidence_is_counted_as_votes() -> None:
    engine = says("Answer: 7")
    votes = (carried("7"), carried("7"), carried("7"))
    run = await run_on(engine, task(max_samples=16, evidence=votes))
    result = await self_consistency(run)
    assert result.samples[:3] == votes
    assert len(engine.calls) < 4
    assert result.stop_reason == "confident"


async def test_enough_evidence_costs_nothing_more() -> None:
    engine = says("Answer: 7")
    run = await run_on(engine, task(max_samples=16, evidence=(carried("7"),) * 4))
    result = await self_consistency(run)
    assert not engine.calls
    assert run.spend.total == 0
    assert result.sample.text == "carried 7"


async def test_a_failed_check_casts_no_vote() -> None:
    engine = says(("Answer: 99", 9.0), ("Answer: 7", 1.0))
    check = VerifySpec("number", maximum=10)
    run = await run_on(engine, task(max_samples=32, verify=check, budget_tokens=10**6))
    result = await self_consistency(run)
    assert result.sample.answer == "7"
    assert result.sample.verified


async def test_one_engine_failure_does_not_lose_the_votes() -> None:
    engine = says("Answer: 7")
    await engine.start()
    run = await run_on(engine, task(max_samples=16, evidence=(carried("7"), carried("7"))))
    engine.failure = FakeFailure(kind="unavailable")
    result = await self_consistency(run)
    assert (result.sample.answer, result.stop_reason) == ("7", "engine_error")


async def test_an_engine_that_never_answers_is_an_error() -> None:
    engine = says("x", fail=FakeFailure(kind="unavailable"))
    with pytest.raises(EngineUnavailable):
        await self_consistency(await run_on(engine, task(max_samples=4)))


async def test_the_deadline_gives_the_votes_so_far() -> None:
    def slow_after_two(generation: Generation, _: random.Random) -> str:
        return "Answer: 7" if (generation.sampling.seed or 0) <= 2 else " word" * 1000 + "\nAnswer: 8"

    engine = FakeEngine(FakeConfig(token_delay_s=0.002), script=slow_after_two)
    run = await run_on(engine, task(max_samples=8, timeout_s=0.4, max_tokens=2000, budget_tokens=10**6))
    result = await self_consistency(run)
    assert result.stop_reason == "deadline"
    assert result.sample.answer == "7"
    assert run.cancelled > 0
    assert engine.active == 0


async def test_leaving_early_cancels_every_branch() -> None:
    engine = says(" word" * 1000, delay_s=0.01)
    run = await run_on(engine, task(max_samples=8, timeout_s=0.2, max_tokens=1000, budget_tokens=10**6))
    await self_consistency(run)
    assert engine.active == 0
    assert {call.outcome for call in engine.calls} == {"cancelled"}


async def test_progress_tells_leader_and_tokens() -> None:
    events: list[TierEvent] = []
    run = await run_on(says("Answer: 7"), task(max_samples=8, progress=True), events)
    await self_consistency(run)
    told = [e for e in events if isinstance(e, Progress)]
    assert [e.samples_done for e in told] == [1, 2, 4]
    assert told[-1].leader == "7"
    assert told[0].tokens < told[-1].tokens <= run.spend.total


async def test_draws_have_seeds_of_their_own() -> None:
    engine = says("Answer: 1", "Answer: 2")
    await self_consistency(await run_on(engine, task(max_samples=8, seed=10)))
    seeds = Counter(call.generation.sampling.seed for call in engine.calls)
    assert max(seeds.values()) == 1
    assert 10 in seeds


# -- answers that cannot be compared


def prose(*openings: str) -> FakeEngine:
    """Replies too long to be compared, the n-th draw with the n-th opening."""
    tail = "\n" + "word " * 60

    def say(generation: Generation, _: random.Random) -> str:
        return openings[((generation.sampling.seed or 1) - 1) % len(openings)] + tail

    return FakeEngine(FakeConfig(), script=say)


async def test_the_medoid_is_given_where_three_texts_cannot_be_compared() -> None:
    engine = prose("bananas and pears", "the capital is Paris", "Paris is the capital")
    run = await run_on(engine, task(max_samples=16, max_tokens=200))
    result = await self_consistency(run)
    assert result.stop_reason == "no_comparable_answer"
    assert len(result.samples) == 3 == run.spend.calls  # no fourth was launched
    assert result.sample.text.startswith("the capital is Paris")
    assert result.confidence is None
    assert run.spend.completion_kept == run.calls[1].completion_tokens


async def test_two_texts_with_the_same_words_need_no_third() -> None:
    engine = prose("it is Paris", "Paris it IS.")
    result = await self_consistency(await run_on(engine, task(max_samples=16, max_tokens=200)))
    assert (len(result.samples), result.stop_reason) == (2, "no_comparable_answer")


async def test_of_two_texts_the_likelier_is_given() -> None:
    votes = (carried(None, mean_logprob=-3.0), carried(None, text="longer prose", mean_logprob=-1.0))
    result = await self_consistency(await run_on(says("x"), task(max_samples=2, evidence=votes)))
    assert (result.chosen, result.stop_reason) == (1, "max_samples")


async def test_a_third_reply_with_an_answer_starts_a_vote() -> None:
    engine = prose("pears", "apples")
    calm = engine.script
    assert calm is not None

    def third_answers(generation: Generation, rng: random.Random) -> str:
        return "Answer: 7" if (generation.sampling.seed or 0) >= 3 else calm(generation, rng)

    engine.script = third_answers
    result = await self_consistency(await run_on(engine, task(max_samples=16, max_tokens=200)))
    assert (result.sample.answer, result.stop_reason) == ("7", "confident")


# -- weighted votes


async def confidences(run: Run, replies: Sequence[Sample]) -> list[float | None]:
    """A scorer that knows: an answer of 9 is nearly sure to be right."""
    return [0.95 if reply.answer == "9" else 0.05 for reply in replies]


VOTES = tuple(carried(answer, mean_logprob=-1.0) for answer in ("7", "7", "7", "9", "9", "8"))


async def test_weights_say_who_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCORERS, "told", confidences)  # type: ignore[index]
    what = task(max_samples=6, evidence=VOTES, scorer="told", weighted=True)
    result = await self_consistency(await run_on(says("x"), what))
    assert (result.sample.answer, result.stop_reason) == ("9", "settled")
    assert result.votes.leader == "7"
    assert result.weights[3] / result.weights[0] == pytest.approx(math.exp(0.9))  # softmax at temperature 1
    assert result.confidence == pytest.approx(leader_confidence(2, 3))  # it won against the count
    unweighted = await self_consistency(await run_on(says("x"), task(max_samples=6, evidence=VOTES)))
    assert unweighted.sample.answer == "7"


async def test_the_number_of_votes_says_when_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCORERS, "told", confidences)  # type: ignore[index]
    script = ["7", "9", "7", "7", "7", "9", "7", "7", "7", "7", "7", "7", "7", "7", "7", "7"]

    def say(generation: Generation, _: random.Random) -> str:
        return f"Answer: {script[(generation.sampling.seed or 1) - 1]}"

    drawn = []
    for weighted in (False, True):
        engine = FakeEngine(FakeConfig(), script=say)
        what = task(max_samples=16, scorer="told", weighted=weighted)
        result = await self_consistency(await run_on(engine, what))
        drawn.append((len(result.samples), result.stop_reason))
    assert drawn[0] == drawn[1]


async def test_agreement_spends_nothing_on_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    async def counting(run: Run, replies: Sequence[Sample]) -> list[float | None]:
        asked.append(len(replies))
        return [1.0] * len(replies)

    monkeypatch.setitem(SCORERS, "told", counting)  # type: ignore[index]
    result = await self_consistency(
        await run_on(says("Answer: 7"), task(max_samples=8, scorer="told", weighted=True))
    )
    assert asked == [0]  # only whether it can work here
    assert (result.weights, result.stop_reason) == ((), "confident")


async def test_a_scorer_that_cannot_work_is_refused_unspent() -> None:
    engine = says("Answer: 7", logprobs=False)
    run = await run_on(engine, task(max_samples=4, weighted=True))
    with pytest.raises(StrategyUnsupported, match="log-probabilities"):
        await self_consistency(run)
    with pytest.raises(StrategyUnsupported, match="no scorer 'guess'"):
        await self_consistency(await run_on(engine, task(max_samples=4, weighted=True, scorer="guess")))
    assert not engine.calls


# -- one vote, and draws that fail


async def test_a_single_vote_is_no_evidence_of_itself() -> None:
    result = await self_consistency(await run_on(says("Answer: 7"), task(max_samples=1)))
    assert (result.sample.answer, result.confidence) == ("7", None)


async def test_a_failed_draw_takes_its_seed_along() -> None:
    """Drawing again with the same seed as a sample in hand would make a copy, and a copy is no vote."""
    engine = says("Answer: 1", "Answer: 2", "Answer: 3", "Answer: 4")
    events: list[TierEvent] = []
    run = await run_on(engine, task(max_samples=12, progress=True), events)
    seen = 0

    def fail_one(event: TierEvent) -> None:
        nonlocal seen
        seen += 1
        if seen == 2:
            engine.failure = FakeFailure(kind="unavailable", times=1)

    run._emit = fail_one
    result = await self_consistency(run)
    finished = [c.generation.sampling.seed for c in engine.calls if c.outcome == "done"]
    assert any(c.outcome == "failed" for c in engine.calls)
    assert len(set(finished)) == len(finished) >= len(result.samples)


async def test_a_budget_without_room_for_the_scorer_weighs_by_likelihood(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def dear(run: Run, replies: Sequence[Sample]) -> list[float | None]:
        if replies:
            raise BudgetTooSmall(100, 10)
        return []

    monkeypatch.setitem(SCORERS, "told", dear)  # type: ignore[index]
    what = task(max_samples=6, evidence=VOTES, scorer="told", weighted=True)
    result = await self_consistency(await run_on(says("x"), what))
    assert (result.sample.answer, result.stop_reason) == ("7", "budget")
    assert len(set(result.weights)) == 1
