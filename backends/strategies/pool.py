"""Draws of a question, gathered: what self-consistency, best-of-N and refinement have in common."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from backends.engines.base import Message
from backends.errors import DeadlinePassed, EngineError
from backends.stopping import Tally, leader_confidence, tally
from backends.strategies.base import Call, Run
from backends.task import Sample


def votes(samples: Sequence[Sample]) -> Tally:
    """Answers counted; a sample that failed the caller's check casts no vote."""
    return tally([None if sample.verified is False else sample.answer for sample in samples])


def standing(samples: Sequence[Sample], chosen: int) -> float | None:
    """P(the chosen sample's answer truly leads) by the number of votes; None without two votes to compare."""
    answer, counted = samples[chosen].answer, votes(samples)
    voters = sum(s.answer is not None and s.verified is not False for s in samples)
    if answer is None or voters < 2:
        return None
    if answer == counted.leader:
        return counted.confidence
    own = sum(s.answer == answer and s.verified is not False for s in samples)
    return leader_confidence(own, counted.leader_votes)


def doubling(samples: Sequence[Sample]) -> int:
    """Waves of 1, 1, 2, 4, ...: the leader warms the prefix cache, then as many again as there are."""
    return max(1, len(samples))


class Pool:
    """The samples of a run in launch order, those carried in first, and the calls behind those drawn here."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.samples: list[Sample] = list(run.task.evidence)
        self._calls: list[Call | None] = [None] * len(self.samples)
        self._launched = len(self.samples)

    def keep(self, index: int) -> None:
        """Sample `index` is the answer."""
        if (call := self._calls[index]) is not None:
            self.run.keep(call)

    async def draw_one(self, messages: tuple[Message, ...]) -> None:
        """One more sample, of other messages than the others. Raises BudgetTooSmall, EngineError."""
        async with aclosing(self._wave(messages, 1)) as drawn:
            async for _ in drawn:
                pass

    async def draw(
        self,
        limit: int,
        settled: Callable[[Sequence[Sample]], str | None],
        *,
        wave: Callable[[Sequence[Sample]], int] = doubling,
        ends: Callable[[Call], bool] | None = None,
    ) -> str:
        """Draw waves up to `limit` samples until `settled` says why to stop; returns that reason.

        It is asked after each launch-order prefix, never in order of arrival; what still runs when it stops
        is cancelled. Other reasons: "max_samples", "budget", "deadline", "engine_error".
        Raises DeadlinePassed, BudgetTooSmall or EngineError only when there is no sample at all.
        """
        try:
            async with asyncio.timeout_at(self.run.deadline):
                return await self._waves(limit, settled, wave, ends)
        except TimeoutError:
            if not self.samples and (cut := self.run.longest_unfinished()) is not None:
                self._add(cut)
            if not self.samples:
                raise DeadlinePassed("no token came before the deadline; allow more time") from None
            return "deadline"
        except EngineError:
            if not self.samples:
                raise
            return "engine_error"  # what was paid for still makes an answer

    async def _waves(
        self,
        limit: int,
        settled: Callable[[Sequence[Sample]], str | None],
        wave: Callable[[Sequence[Sample]], int],
        ends: Callable[[Call], bool] | None,
    ) -> str:
        run, messages = self.run, self.run.messages()
        while True:
            if (reason := settled(self.samples)) is not None:
                return reason
            if len(self.samples) >= limit:
                return "max_samples"
            covered = run.affordable(await run.prompt_tokens(messages), run.task.sampling.max_tokens)
            if self.samples and covered == 0:
                return "budget"
            # Without any sample yet the call itself raises, and says what it needs.
            size = max(1, min(wave(self.samples), limit - len(self.samples), covered))
            async with aclosing(self._wave(messages, size, ends)) as drawn:
                async for _ in drawn:
                    if settled(self.samples) is not None:
                        break
            counted = votes(self.samples)
            run.progress(self.samples, counted.leader, counted.confidence)

    async def _wave(
        self, messages: tuple[Message, ...], size: int, ends: Callable[[Call], bool] | None = None
    ) -> AsyncGenerator[None, None]:
        # A number is used once, also by a draw that fails: no two samples share a seed.
        asked = [self.run.sampling(self._launched + i) for i in range(size)]
        self._launched += size
        async with aclosing(self.run.in_launch_order(messages, asked, ends=ends)) as drawn:
            async for call, _ in drawn:
                self._add(call)
                yield

    def _add(self, call: Call) -> None:
        self._calls.append(call)
        self.samples.append(self.run.as_sample(call))
