"""Best-of-N: draw N samples, score those that disagree, give the best of the best-supported answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backends.strategies.base import Call, Run, StrategyResult
from backends.strategies.pool import Pool, standing, votes
from backends.strategies.ranking import disagree, elect, require_scorer
from backends.task import Sample


@dataclass(frozen=True, slots=True)
class BestOfNResult(StrategyResult):
    """The best sample of the answer whose scores add up to most (weighted best-of-N, arXiv 2206.02336).

    `confidence` is P(that answer truly leads) from the number of votes, None with fewer than two.
    `weights` are the scores as weights, one a sample, empty where no score was needed.
    """

    weights: tuple[float, ...]


async def best_of_n(run: Run) -> BestOfNResult:
    """Draw up to `max_samples` in waves of 1, 1, 2, 4, ...; samples carried in are the first ones.

    A sample that passes the caller's check ends it at once ("verified"), whatever was launched before it: a
    check is no vote, so it need not wait its turn. Samples that agree so often that the Beta rule calls
    them confident end it too ("confident"): no score over them could change the answer.
    Scoring comes after drawing, and only where samples disagree. Where the budget no longer covers the
    scorer, log-probability ranks instead, and the stop reason is "budget".
    Raises StrategyUnsupported (the scorer cannot work here), and DeadlinePassed, BudgetTooSmall or
    EngineError only when there is no sample at all.
    """
    await require_scorer(run)
    pool = Pool(run)

    def settled(samples: Sequence[Sample]) -> str | None:
        if any(sample.verified for sample in samples):
            return "verified"
        confidence = votes(samples).confidence
        if confidence is None or confidence < run.params.confidence or disagree(samples):
            return None
        return "confident"

    def passes(call: Call) -> bool:
        return run.passes(call.text) is True

    reason = await pool.draw(run.params.max_samples, settled, ends=passes)
    samples = pool.samples
    election = await elect(run, samples)
    pool.keep(election.chosen)
    return BestOfNResult(
        samples=tuple(samples),
        chosen=election.chosen,
        stop_reason=election.short or reason,
        confidence=standing(samples, election.chosen),
        planned=run.params.max_samples,
        weights=election.weights,
    )
