"""Self-consistency: sample in waves, vote on answers, stop when the vote is settled.

Wang et al. (arXiv 2203.11171) with the Beta stop of Adaptive-Consistency (arXiv 2305.11860) and the lossless
stop.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass

from backends.errors import DeadlinePassed, EngineError
from backends.stopping import Tally, stop_reason, tally
from backends.strategies.base import Call, Run, StrategyResult
from backends.task import Sample

# Two replies without an extractable answer show a question whose answers cannot be compared: more samples
# would be paid for and never counted.
VOTELESS_SAMPLES = 2


@dataclass(frozen=True, slots=True)
class SelfConsistencyResult(StrategyResult):
    """The leading answer's most likely sample; `confidence` is P(the leader truly leads)."""

    votes: Tally


async def self_consistency(run: Run) -> SelfConsistencyResult:
    """Draw waves of 1, 1, 2, 4, ... up to `max_samples`; samples carried in are the first votes.

    Votes count in launch order: the stop is looked for after each launch-order prefix, and what is still
    running then is cancelled. A sample that fails the caller's check casts no vote.
    Raises DeadlinePassed, BudgetTooSmall or EngineError only when there is no sample at all.
    """
    samples: list[Sample] = list(run.task.evidence)
    calls: list[Call | None] = [None] * len(samples)
    messages, limit = run.messages(), run.params.max_samples
    reason = _reason(samples, limit, run.params.confidence)
    try:
        async with asyncio.timeout_at(run.deadline):
            prompt = await run.prompt_tokens(messages)
            while reason is None:
                wave = min(max(1, len(samples)), limit - len(samples))
                # Without any sample yet the call itself raises, and says what it needs.
                covered = run.affordable(prompt, run.task.sampling.max_tokens)
                if samples and covered == 0:
                    reason = "budget"
                    break
                wave = max(1, min(wave, covered))
                asked = [run.sampling(len(samples) + i) for i in range(wave)]
                async with aclosing(run.in_launch_order(messages, asked)) as drawn:
                    async for call, _ in drawn:
                        calls.append(call)
                        samples.append(run.as_sample(call))
                        reason = _reason(samples, limit, run.params.confidence)
                        if reason is not None:
                            break
                votes = _votes(samples)
                run.progress(samples, votes.leader, votes.confidence)
    except TimeoutError:
        reason = "deadline"
        if not samples and (cut := run.longest_unfinished()) is not None:
            calls, samples = [cut], [run.as_sample(cut)]
        if not samples:
            raise DeadlinePassed("no token came before the deadline; allow more time") from None
    except EngineError:
        if not samples:
            raise
        reason = "engine_error"  # the votes that were paid for still make an answer
    votes = _votes(samples)
    chosen = _best(samples, votes.leader)
    if (call_kept := calls[chosen]) is not None:
        run.keep(call_kept)
    return SelfConsistencyResult(
        samples=tuple(samples),
        chosen=chosen,
        stop_reason=reason or "max_samples",
        confidence=votes.confidence,
        planned=limit,
        votes=votes,
    )


def _votes(samples: list[Sample]) -> Tally:
    return tally([None if s.verified is False else s.answer for s in samples])


def _reason(samples: list[Sample], limit: int, confidence: float) -> str | None:
    votes = _votes(samples)
    if (reason := stop_reason(votes, limit, confidence)) is not None:
        return reason
    if len(samples) >= limit:
        return "max_samples"
    if len(samples) >= VOTELESS_SAMPLES and all(s.answer is None for s in samples):
        return "no_comparable_answer"
    return None


def _best(samples: list[Sample], leader: str | None) -> int:
    """The leader's sample with the highest mean log-probability; without a leader, of all samples."""
    able = [i for i, s in enumerate(samples) if leader is not None and s.answer == leader]
    able = [i for i in able if samples[i].verified is not False] or able or list(range(len(samples)))
    return max(able, key=lambda i: (_likelihood(samples[i]), -i))


def _likelihood(sample: Sample) -> float:
    return sample.mean_logprob if sample.mean_logprob is not None else float("-inf")
