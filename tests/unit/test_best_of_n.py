"""N draws scored and weighted by answer: what ends them early, what they choose and what they may cost."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.engines.base import Generation
from backends.engines.config import FakeConfig, FakeFailure
from backends.engines.fake import FakeEngine
from backends.errors import BudgetTooSmall, DeadlinePassed, EngineUnavailable, StrategyUnsupported
from backends.stopping import leader_confidence
from backends.strategies.base import Run
from backends.strategies.best_of_n import BestOfNResult, best_of_n
from backends.task import Progress, Sample, TierEvent
from backends.verifiers.base import VerifySpec
from backends.verifiers.scorers import SCORERS
from tests.tasks import carried, run_on, says, task

BELOW_8 = VerifySpec("number", maximum=8)


def by_draw(*replies: str, delay_s: float = 0.0) -> FakeEngine:
    """The n-th draw says the n-th reply."""

    def say(generation: Generation, _: random.Random) -> str:
        return replies[((generation.sampling.seed or 1) - 1) % len(replies)]

    return FakeEngine(FakeConfig(token_delay_s=delay_s), script=say)


async def asking(run: Run, replies: Sequence[Sample]) -> list[float | None]:
    """A scorer that costs: one call a reply, and sure of a 9."""
    scores: list[float | None] = []
    for reply in replies:
        await run.call(run.messages(), run.task.sampling, verifier=True)
        scores.append(0.9 if reply.answer == "9" else 0.1)
    return scores


async def test_the_scores_of_equal_answers_add_up() -> None:
    """Two likely sevens outweigh one likelier nine."""
    votes = (
        carried("7", mean_logprob=-0.5),
        carried("9", mean_logprob=-0.2),
        carried("7", mean_logprob=-0.4),
    )
    run = await run_on(says("x"), task(max_samples=3, evidence=votes))
    result = await best_of_n(run)
    assert isinstance(result, BestOfNResult)
    assert (result.chosen, result.stop_reason) == (2, "max_samples")
    assert result.confidence == pytest.approx(leader_confidence(2, 1))
    assert len(result.weights) == 3
    assert run.spend.total == 0


async def test_it_draws_n_where_samples_disagree() -> None:
    engine = by_draw("Answer: 7", "Answer: 9", "Answer: 7", "Answer: 8")
    run = await run_on(engine, task(max_samples=8))
    result = await best_of_n(run)
    assert len(result.samples) == 8 == result.planned == run.used
    assert result.sample.answer == "7"
    assert run.spend.completion_kept == 2  # one reply of two tokens
    assert len({call.generation.sampling.seed for call in engine.calls}) == 8


async def test_a_verified_pass_ends_it_at_once() -> None:
    engine = by_draw("Answer: 99", "Answer: 7", "Answer: 6")
    run = await run_on(engine, task(max_samples=16, verify=BELOW_8))
    result = await best_of_n(run)
    assert (result.sample.answer, result.sample.verified, result.stop_reason) == ("7", True, "verified")
    assert len(engine.calls) == 2


async def test_a_pass_does_not_wait_for_a_slower_draw_before_it() -> None:
    slow = "word " * 400 + "\nAnswer: 98"
    engine = by_draw("Answer: 99", "Answer: 98", slow, "Answer: 7", delay_s=0.001)
    run = await run_on(engine, task(max_samples=16, verify=BELOW_8, max_tokens=500))
    result = await best_of_n(run)
    assert (result.sample.answer, result.stop_reason) == ("7", "verified")
    assert run.cancelled == 1
    assert engine.active == 0
    cut = next(call for call in engine.calls if call.outcome == "cancelled")
    assert cut.completion_tokens < 100
    assert run.spend.completion == sum(call.completion_tokens for call in engine.calls)


async def test_a_pass_carried_in_costs_nothing() -> None:
    engine = says("Answer: 1")
    votes = (carried("99", verified=False), carried("7", verified=True))
    result = await best_of_n(await run_on(engine, task(max_samples=8, verify=BELOW_8, evidence=votes)))
    assert (result.chosen, result.stop_reason) == (1, "verified")
    assert not engine.calls


async def test_a_confident_agreement_ends_it() -> None:
    run = await run_on(says("Answer: 7"), task(max_samples=16))
    result = await best_of_n(run)
    assert (result.stop_reason, len(result.samples), result.weights) == ("confident", 4, ())


async def test_a_confident_majority_alone_does_not_end_it() -> None:
    """A score may still turn it, so all N are drawn; only agreement without exception ends it early."""
    votes = (*(carried("7"),) * 9, carried("9"))
    result = await best_of_n(await run_on(says("Answer: 7"), task(max_samples=12, evidence=votes)))
    assert (result.stop_reason, len(result.samples)) == ("max_samples", 12)


async def test_agreement_spends_no_verifier_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCORERS, "asking", asking)  # type: ignore[index]
    run = await run_on(says("Answer: 7"), task(max_samples=3, scorer="asking"))
    result = await best_of_n(run)
    assert (result.sample.answer, result.stop_reason) == ("7", "max_samples")
    assert run.spend.verifier == 0


async def test_a_scorer_that_costs_is_counted_and_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCORERS, "asking", asking)  # type: ignore[index]
    run = await run_on(by_draw("Answer: 7", "Answer: 9", "Answer: 7"), task(max_samples=3, scorer="asking"))
    result = await best_of_n(run)
    assert (result.sample.answer, result.stop_reason) == ("9", "max_samples")
    assert run.spend.verifier > 0
    assert run.used == 3
    assert result.confidence == pytest.approx(leader_confidence(1, 2))


async def test_a_budget_without_room_for_the_scorer_ranks_by_likelihood(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(SCORERS, "asking", asking)  # type: ignore[index]
    votes = (carried("7", mean_logprob=-0.1), carried("9", mean_logprob=-3.0))
    what = task(max_samples=2, evidence=votes, scorer="asking", budget_tokens=20)
    run = await run_on(says("x"), what)
    result = await best_of_n(run)
    assert (result.sample.answer, result.stop_reason) == ("7", "budget")
    assert run.spend.total == 0


async def test_a_scorer_that_cannot_work_is_refused_unspent() -> None:
    engine = says("Answer: 7", logprobs=False)
    with pytest.raises(StrategyUnsupported, match="log-probabilities"):
        await best_of_n(await run_on(engine, task(max_samples=4)))
    assert not engine.calls


async def test_free_text_is_chosen_by_its_own_score() -> None:
    long = "word " * 60
    votes = (
        carried(None, text=f"a {long}", mean_logprob=-2.0),
        carried(None, text=f"b {long}", mean_logprob=-1.0),
        carried(None, text=f"c {long}", mean_logprob=-3.0),
    )
    result = await best_of_n(await run_on(says("x"), task(max_samples=3, evidence=votes)))
    assert (result.chosen, result.confidence) == (1, None)


async def test_one_sample_gives_no_confidence() -> None:
    result = await best_of_n(await run_on(says("Answer: 7"), task(max_samples=1)))
    assert (result.sample.answer, result.confidence) == ("7", None)


async def test_deadline_and_engine_leave_the_best_so_far() -> None:
    slow = "word " * 900
    engine = by_draw("Answer: 7", "Answer: 9", slow, slow, delay_s=0.001)
    what = task(max_samples=8, timeout_s=0.3, max_tokens=1000, budget_tokens=10**6)
    run = await run_on(engine, what)
    result = await best_of_n(run)
    assert (len(result.samples), result.stop_reason) == (2, "deadline")
    assert engine.active == 0
    broken = says("x", fail=FakeFailure(kind="unavailable"))
    held = await best_of_n(await run_on(broken, task(max_samples=8, evidence=(carried("7"),))))
    assert (held.sample.answer, held.stop_reason) == ("7", "engine_error")


async def test_nothing_at_all_is_an_error() -> None:
    with pytest.raises(EngineUnavailable):
        await best_of_n(await run_on(says("x", fail=FakeFailure(kind="unavailable")), task(max_samples=4)))
    with pytest.raises(DeadlinePassed):
        await best_of_n(await run_on(says("late", delay_s=5), task(max_samples=4, timeout_s=0.05)))
    with pytest.raises(BudgetTooSmall):
        await best_of_n(await run_on(says("x"), task(max_samples=4, budget_tokens=30)))


async def test_progress_tells_the_leader() -> None:
    events: list[TierEvent] = []
    run = await run_on(by_draw("Answer: 7", "Answer: 9"), task(max_samples=4, progress=True), events)
    await best_of_n(run)
    told = [e for e in events if isinstance(e, Progress)]
    assert [(e.samples_done, e.leader) for e in told] == [(1, "7"), (2, "7"), (4, "7")]


@settings(max_examples=40, deadline=None)
@given(budget=st.integers(1, 700), samples=st.integers(1, 10), seed=st.integers(0, 30))
async def test_a_scorer_that_costs_never_exceeds_the_budget(budget: int, samples: int, seed: int) -> None:
    engine = says("Let me see.\nAnswer: 7", "Answer: 8", "Five and two.\nAnswer: 9")
    what = task(budget_tokens=budget, max_samples=samples, max_tokens=20, seed=seed, scorer="asking")
    run = await run_on(engine, what)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SCORERS, "asking", asking)  # type: ignore[index]
        try:
            result = await best_of_n(run)
        except BudgetTooSmall:
            assert run.spend.total == 0
        else:
            assert result.sample.text
    assert run.spend.total <= budget
    assert run.spend.total == sum(c.prompt_tokens + c.completion_tokens for c in engine.calls)
