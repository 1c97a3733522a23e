"""Tiers that draw recorded samples again: real strategies and stopping rules, an engine made of a table."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace

from backends.cost import cost
from backends.engines.base import Chunk, Completion, EngineInfo, Generation, Message
from backends.errors import EngineUnavailable
from backends.strategies import STRATEGIES
from backends.strategies.base import Run, StrategyResult
from backends.task import Spend, TierEvent, TierResult, TierTask
from router.errors import TierUnavailable
from router.holding import Tariff
from router.replay.recording import Cell

CONTEXT_TOKENS = 10**9  # what was recorded fitted its context
STANDS = "recorded"  # the stop reason of an arm that is not drawn again
CUT = "!"  # ends the key of a reply that was recorded longer than it may be here


class RecordedEngine:
    """Gives the samples of one cell in launch order, at once and whole.

    So a wave is paid in full, where a real engine would cut what is still running when the vote is settled:
    tokens are an upper bound. Raises EngineUnavailable when no sample is left, which ends a run with what it
    has.
    """

    def __init__(self, cell: Cell, logprobs: bool) -> None:
        self._cell = cell
        self._drawn = 0
        self._info = EngineInfo(model="recorded", context_tokens=CONTEXT_TOKENS, logprobs=logprobs)

    @property
    def info(self) -> EngineInfo:
        return self._info

    async def start(self) -> None:
        return

    async def aclose(self) -> None:
        return

    async def healthy(self) -> bool:
        return True

    async def count_prompt_tokens(self, messages: Sequence[Message], prefix: str = "") -> int:
        return self._cell.prompt_tokens

    async def generate(self, generation: Generation) -> AsyncGenerator[Chunk | Completion, None]:
        if self._drawn >= len(self._cell.pool):
            raise EngineUnavailable("the table has no further sample of this prompt; record more of them")
        drawn = self._cell.pool[self._drawn]
        self._drawn += 1
        most = generation.sampling.max_tokens
        shorter = drawn.completion_tokens > most
        yield Completion(
            text=drawn.key + CUT if shorter else drawn.key,
            finish="length" if drawn.cut or shorter else "stop",
            prompt_tokens=self._cell.prompt_tokens,
            completion_tokens=min(drawn.completion_tokens, most),
            logprobs=() if drawn.mean_logprob is None else (drawn.mean_logprob,),
        )


class RecordedRun(Run):
    """A run whose replies are keys of recorded samples: their answers are looked up, not extracted."""

    def __init__(self, cell: Cell, task: TierTask) -> None:
        known = all(drawn.mean_logprob is not None for drawn in cell.pool)
        deadline = asyncio.get_running_loop().time() + task.timeout_s
        self._answers = {drawn.key: drawn.answer for drawn in cell.pool}
        super().__init__(RecordedEngine(cell, known), task, deadline=deadline, emit=lambda _: None)

    def _answer(self, text: str) -> str | None:
        return self._answers.get(text)


class RecordedTiers:
    """The tiers of one prompt and one plan, a `TierClient`: `cells` by tier, `tariffs` price what they spend.

    A cell without samples answers with its recorded score and tokens, under its own key.
    """

    def __init__(self, cells: Mapping[str, Cell], tariffs: Mapping[str, Tariff]) -> None:
        self._cells = cells
        self._tariffs = tariffs
        self.ran_dry = False

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._cells)

    async def healthy(self, tier: str) -> bool:
        return tier in self._cells

    async def stream(self, tier: str, task: TierTask) -> AsyncGenerator[TierEvent, None]:
        yield await self.run(tier, task)

    async def run(self, tier: str, task: TierTask) -> TierResult:
        cell = self._cells.get(tier)
        if cell is None:
            raise TierUnavailable(f"nothing was recorded on {tier}; replay under a policy without it")
        if not cell.pool:
            return self._stands(tier, cell, task)
        run = RecordedRun(cell, task)
        result = await STRATEGIES[task.strategy](run)
        self.ran_dry = self.ran_dry or result.stop_reason == "engine_error"
        return self._result(tier, run, result)

    def _result(self, tier: str, run: Run, result: StrategyResult) -> TierResult:
        chosen = result.sample
        return replace(
            self._bill(tier, run.spend),
            strategy=run.task.strategy,
            texts=(chosen.text,),
            answer=chosen.answer,
            finish=chosen.finish,
            stop_reason=result.stop_reason,
            confidence=result.confidence,
            planned=result.planned,
            used=run.used,
            samples=result.samples,
        )

    def _stands(self, tier: str, cell: Cell, task: TierTask) -> TierResult:
        spend = Spend(
            prompt_computed=cell.charged_tokens - cell.completion_tokens,
            completion_kept=cell.completion_tokens,
            calls=1,
        )
        told = replace(self._bill(tier, spend), strategy=task.strategy, texts=(own_key(tier),))
        return replace(told, stop_reason=STANDS, samples=task.evidence)

    def _bill(self, tier: str, spend: Spend) -> TierResult:
        tariff = self._tariffs.get(tier)
        bill = None if tariff is None else cost(spend, tariff.shape, tariff.hardware, batch=1.0)
        return TierResult(
            strategy="",
            texts=(),
            answer=None,
            finish="stop",
            stop_reason="",
            confidence=None,
            verified=None,
            planned=1,
            used=1,
            cancelled=0,
            spend=spend,
            gpu_seconds=0.0 if bill is None else bill.gpu_seconds,
            flops=0.0 if bill is None else bill.flops,
            cost_usd=0.0 if bill is None else bill.usd,
            engine_model="recorded",
        )


def own_key(tier: str) -> str:
    """Stands for the text of an arm whose samples were not recorded."""
    return f"{tier}#recorded"


def score_of(result: TierResult, cells: Mapping[str, Cell]) -> float:
    """The recorded score of the answer that is given; `cells` by tier.

    A reply that the plan cut shorter than it was recorded has no known answer, and counts as wrong.
    """
    key = result.texts[0]
    if key.endswith(CUT):
        return 0.0
    for tier, cell in cells.items():
        if key == own_key(tier):
            return cell.score
        for drawn in cell.pool:
            if drawn.key == key:
                return drawn.score
    raise KeyError(key)
