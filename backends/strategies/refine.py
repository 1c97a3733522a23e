"""Refine: revise a draft where something outside the model objects to it, and keep the best version.

Without an external signal the draft stays as it is: models that look for their own mistakes unasked lower
their accuracy (arXiv 2310.01798). Signals are the caller's check, a reward model or the arithmetic re-check
(as the arm's scorer), and the disagreement of samples carried in.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from backends.engines.base import Message
from backends.errors import BudgetTooSmall, EngineError
from backends.strategies.base import Run, StrategyResult
from backends.strategies.pool import Pool, votes
from backends.strategies.ranking import require_scorer
from backends.task import Sample
from backends.verifiers.explain import explain, wrong_sums
from backends.verifiers.scorers import SCORERS

MAX_STALLS = 2
MAX_OTHERS = 5  # other answers told to the model

# Scorers that are evidence from outside the model, and the score in [0, 1] below which they object. A reward
# on another scale has no known bar: it ranks versions, and objects to none.
EXTERNAL: Mapping[str, float] = {"reward": 0.5, "arithmetic": 1.0}
AGAIN = "Find the mistake and write the whole corrected answer."


@dataclass(frozen=True, slots=True)
class RefineResult(StrategyResult):
    """The best version; `confidence` is None, since revisions of one draft are no independent votes.

    `objections` are what each revision was asked to mend, in order.
    """

    objections: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the signals say of a version: an objection and its source, or none and the reason to stop."""

    objection: str | None
    source: str


async def refine(run: Run) -> RefineResult:
    """Revise up to `params.rounds` times; the draft is the best sample carried in, else drawn first.

    Stop reasons: "verified" (passed the caller's check), "no_signal" (nothing objects to the draft),
    "accepted" (the scorer is content), "settled" (a revision that was told of other answers came to the same
    one again), "stalled" (two revisions that mended nothing), "max_rounds", "budget", "deadline",
    "engine_error". The best version is verified, else has the highest score, else the most votes for its
    answer, else is the earliest.
    Raises StrategyUnsupported (the scorer cannot work here), and DeadlinePassed, BudgetTooSmall or
    EngineError only when there is no draft at all.
    """
    if run.params.scorer in EXTERNAL:
        await require_scorer(run)
    rounds = _Rounds(run)
    reason = await rounds.pool.draw(1, lambda samples: "drafted" if samples else None)
    if reason == "drafted":
        try:
            async with asyncio.timeout_at(run.deadline):
                reason = await rounds.go()
        except TimeoutError:
            reason = "deadline"
        except BudgetTooSmall:
            reason = "budget"
        except EngineError:
            reason = "engine_error"
    samples, chosen = rounds.pool.samples, rounds.best()
    rounds.pool.keep(chosen)
    planned = 1 + run.params.rounds
    return RefineResult(tuple(samples), chosen, reason, None, planned, tuple(rounds.objections))


class _Rounds:
    """The versions so far: `pool` has the samples carried in, the draft and its revisions."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.pool = Pool(run)
        self.objections: list[str] = []
        self._scores: dict[int, float] = {}

    def best(self) -> int:
        """The version to give now."""
        samples = self.pool.samples
        support = Counter(sample.answer for sample in samples if sample.answer is not None)

        unrated = float("-inf")

        def rank(index: int) -> tuple[int, float, int, int]:
            sample = samples[index]
            verified = {True: 2, None: 1, False: 0}[sample.verified]
            votes = support[sample.answer] if sample.answer is not None else 0
            return verified, self._scores.get(index, unrated), votes, -index

        return max(range(len(samples)), key=rank)

    async def go(self) -> str:
        """Revise until nothing objects, nothing moves or the rounds are used up; returns why."""
        current, stalls = self.best(), 0
        verdict = await self._judge(current)
        for _ in range(self.run.params.rounds):
            if verdict.objection is None or stalls == MAX_STALLS:
                break
            before, told = self.best(), verdict.objection
            revised = await self._revise(current, told)
            verdict = await self._judge(revised)
            repeated = _same(self.pool.samples[current], self.pool.samples[revised])
            if repeated and verdict.source == "others":
                return "settled"
            if self.best() == before and (repeated or verdict.objection == told):
                stalls += 1
            current = revised
        if verdict.objection is None:
            return verdict.source
        return "stalled" if stalls == MAX_STALLS else "max_rounds"

    async def _judge(self, index: int) -> Verdict:
        sample, spec = self.pool.samples[index], self.run.task.verify
        if sample.verified:
            return Verdict(None, "verified")
        if sample.verified is False and spec is not None:
            return Verdict(explain(spec, sample.text), "check")
        if self.run.params.scorer in EXTERNAL:
            (score,) = await SCORERS[self.run.params.scorer](self.run, [sample])
            if score is not None:
                self._scores[index] = score
            if score is not None and 0.0 <= score <= 1.0:
                if score >= EXTERNAL[self.run.params.scorer]:
                    return Verdict(None, "accepted")
                return Verdict(wrong_sums(sample.text) or "This answer was rated as probably wrong.", "score")
        if others := self._others(sample):
            told = "; ".join(others[:MAX_OTHERS])
            return Verdict(f"Other attempts came to a different answer: {told}.", "others")
        return Verdict(None, "no_signal")

    def _others(self, sample: Sample) -> list[str]:
        """Other answers among the samples carried in, most votes first; none where the vote is confident."""
        carried = self.run.task.evidence
        confidence = votes(carried).confidence
        answers = Counter(s.answer for s in carried if s.answer is not None and s.verified is not False)
        if confidence is None or confidence >= self.run.params.confidence or len(answers) < 2:
            return []
        return [answer for answer, _ in answers.most_common() if answer != sample.answer]

    async def _revise(self, index: int, objection: str) -> int:
        run, pool = self.run, self.pool
        turns = (
            *run.messages(),
            Message("assistant", pool.samples[index].text),
            Message("user", f"{objection}\n{AGAIN}"),
        )
        await pool.draw_one(turns)
        self.objections.append(objection)
        run.progress(pool.samples, pool.samples[self.best()].answer, None)
        return len(pool.samples) - 1


def _same(first: Sample, second: Sample) -> bool:
    if first.answer is None and second.answer is None:
        return first.text == second.text
    return first.answer == second.answer
