"""Self-consistency: sample in waves, vote on answers, stop when the vote is settled.

Wang et al. (arXiv 2203.11171) with the Beta stop of Adaptive-Consistency (arXiv 2305.11860) and the lossless
stop; with `weighted`, votes count by confidence (CISC, arXiv 2502.06233).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backends.medoid import overlap, words
from backends.stopping import Tally, stop_reason
from backends.strategies.base import Run, StrategyResult
from backends.strategies.pool import Pool, doubling, standing, votes
from backends.strategies.ranking import elect, eligible, likeliest, most_central, require_scorer
from backends.task import Sample

# Replies without an extractable answer show a question whose answers cannot be compared: more samples would
# be paid for and never counted. Three are the fewest of which one can be the odd one out.
VOTELESS_SAMPLES = 3

# CISC fits it per model and signal. 1 is mild (the surest vote weighs at most e times the least sure), since
# log-probability, the default signal, was not seen to earn more.
VOTE_TEMPERATURE = 1.0


@dataclass(frozen=True, slots=True)
class SelfConsistencyResult(StrategyResult):
    """The winning answer's best sample; `confidence` is P(it truly leads), from the number of votes alone.

    `votes` are counted one a sample. `weights` are those that decided instead, empty where none were needed.
    """

    votes: Tally
    weights: tuple[float, ...] = ()


async def self_consistency(run: Run) -> SelfConsistencyResult:
    """Draw waves of 1, 1, 2, 4, ... up to `max_samples`; samples carried in are the first votes.

    Votes count in launch order: the stop is looked for after each launch-order prefix, and what is still
    running then is cancelled. A sample that fails the caller's check casts no vote.
    With `weighted` the same rules on the number of votes say when to stop, and the weights only who wins:
    the Beta rule counts draws, and a weight is no draw. An answer that wins against the count gets the low
    confidence that its count deserves.
    Raises DeadlinePassed, BudgetTooSmall or EngineError only when there is no sample at all;
    StrategyUnsupported where votes are weighted and the scorer cannot work here.
    """
    limit, confidence = run.params.max_samples, run.params.confidence
    if run.params.weighted:
        await require_scorer(run)
    pool = Pool(run)
    reason = await pool.draw(limit, lambda samples: _settled(samples, limit, confidence), wave=_wave)
    counted, samples = votes(pool.samples), pool.samples
    weights: tuple[float, ...] = ()
    if counted.leader is None:
        chosen = most_central(samples, eligible(samples))
    elif run.params.weighted:
        election = await elect(run, samples, temperature=VOTE_TEMPERATURE)
        chosen, weights, reason = election.chosen, election.weights, election.short or reason
    else:
        voters = [i for i in eligible(samples) if samples[i].answer == counted.leader]
        chosen = likeliest(samples, voters)
    pool.keep(chosen)
    return SelfConsistencyResult(
        samples=tuple(samples),
        chosen=chosen,
        stop_reason=reason,
        confidence=standing(samples, chosen),
        planned=limit,
        votes=counted,
        weights=weights,
    )


def _settled(samples: Sequence[Sample], limit: int, confidence: float) -> str | None:
    if (reason := stop_reason(votes(samples), limit, confidence)) is not None:
        return reason
    if any(s.answer is not None for s in samples):
        return None
    enough = len(samples) >= VOTELESS_SAMPLES or _same(samples)
    return "no_comparable_answer" if enough else None


def _same(samples: Sequence[Sample]) -> bool:
    """Two texts or more with the very same words: a third would settle nothing."""
    bags = [words(s.text) for s in samples]
    return len(bags) > 1 and all(overlap(bags[0], other) == 1.0 for other in bags[1:])


def _wave(samples: Sequence[Sample]) -> int:
    """While no reply has an answer, one at a time: the next may be the last that is wanted."""
    return 1 if all(s.answer is None for s in samples) else doubling(samples)
