"""A tier without Ray: tasks in, events and results out, and nothing left running or uncounted.

Each run is a task that the runner owns. When the caller leaves, the run is cancelled and settles its own
lease, because only it knows what its engine calls had spent; whoever awaited it may already be gone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import Protocol

from backends.answers.equivalence import Equivalence
from backends.cost import Cost, cost, mean_overlap
from backends.engines.base import Engine
from backends.errors import BackendError, StrategyUnsupported
from backends.hardware import Hardware, ModelShape
from backends.strategies import STRATEGIES
from backends.strategies.base import Run, StrategyResult
from backends.task import TextDelta, TierEvent, TierResult, TierTask, Used
from backends.verifiers.base import RewardModel

log = logging.getLogger(__name__)

CHECKPOINT_EVERY_S = 1.0


class Meter(Protocol):
    """Where a run tells what it has spent so far (cumulative over its lease)."""

    async def checkpoint(self, tenant: str, lease_id: str, used: Used) -> None:
        """The run goes on: remember this much, so that a crash charges it."""
        ...

    async def abandon(self, tenant: str, lease_id: str, used: Used) -> None:
        """The caller left: charge this much and free the rest."""
        ...

    async def aclose(self) -> None:
        """No run is left: wait a while for what could not be told yet."""
        ...


class TierRunner:
    """Runs strategies on one engine, and `reward` for those that score by it.

    `hardware` and `shape` price what they spend.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        tier: str,
        hardware: Hardware,
        shape: ModelShape,
        meter: Meter | None = None,
        reward: RewardModel | None = None,
    ) -> None:
        self.engine = engine
        self.reward = reward
        self.tier = tier
        self._hardware = hardware
        self._shape = shape
        self._meter = meter
        self._running: set[asyncio.Task[TierResult]] = set()
        self._telling: set[asyncio.Task[None]] = set()
        self._equivalence = Equivalence()

    async def start(self) -> None:
        if self.reward is not None:
            await self.reward.start()
        await self.engine.start()

    async def aclose(self) -> None:
        """Cancel what runs, let it settle, then stop the engine."""
        for work in self._running:
            work.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await asyncio.gather(*self._telling, return_exceptions=True)
        if self._meter is not None:
            await self._meter.aclose()
        await self._equivalence.aclose()
        if self.reward is not None:
            await self.reward.aclose()
        await self.engine.aclose()

    async def healthy(self) -> bool:
        return await self.engine.healthy()

    async def run(self, task: TierTask) -> TierResult:
        """Run a task to its end. Raises BackendError, with `spend` set to what was used."""
        work = self._spawn(task, lambda _: None)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            work.cancel()
            raise

    async def stream(self, task: TierTask) -> AsyncGenerator[TierEvent, None]:
        """Run a task, yielding its events and last its result; text that piled up is joined."""
        events: asyncio.Queue[TierEvent | None] = asyncio.Queue()
        work = self._spawn(task, events.put_nowait)
        work.add_done_callback(lambda _: events.put_nowait(None))
        try:
            while not work.done() or not events.empty():
                batch = [await events.get()]
                while not events.empty():
                    batch.append(events.get_nowait())
                for event in _joined(batch):
                    yield event
            yield work.result()
        finally:
            work.cancel()

    def _spawn(self, task: TierTask, emit: Callable[[TierEvent], None]) -> asyncio.Task[TierResult]:
        work = asyncio.create_task(self._execute(task, emit))
        self._running.add(work)
        work.add_done_callback(self._running.discard)
        return work

    async def _execute(self, task: TierTask, emit: Callable[[TierEvent], None]) -> TierResult:
        strategy = STRATEGIES.get(task.strategy)
        if strategy is None:
            raise StrategyUnsupported(f"no strategy {task.strategy!r}; there are {', '.join(STRATEGIES)}")
        run = Run(
            self.engine,
            task,
            deadline=asyncio.get_running_loop().time() + task.timeout_s,
            emit=emit,
            reward=self.reward,
            same=self._equivalence.same,
        )
        beat = asyncio.create_task(self._checkpoints(run)) if self._meter and task.lease_id else None
        try:
            result = self._result(run, await strategy(run))
            self._tell(run)
            return result
        except asyncio.CancelledError:
            await self._abandon(run)
            raise
        except BackendError as error:
            self._tell(run)
            error.spend, error.used = run.spend, self._used(run)
            raise
        finally:
            if beat is not None:
                beat.cancel()

    def _result(self, run: Run, result: StrategyResult) -> TierResult:
        task, spend, chosen = run.task, run.spend, result.sample
        bill = self._bill(run)
        # Where several choices were drawn, the first is the chosen one and the others follow it.
        count = task.choices if task.strategy in ("direct", "cot") else 1
        choices = result.samples[result.chosen : result.chosen + count]
        return TierResult(
            strategy=task.strategy,
            texts=tuple(sample.text for sample in choices),
            answer=chosen.answer,
            finish=chosen.finish,
            stop_reason=result.stop_reason,
            confidence=result.confidence,
            verified=chosen.verified,
            planned=result.planned,
            used=run.used,
            cancelled=run.cancelled,
            spend=spend,
            gpu_seconds=bill.gpu_seconds,
            flops=bill.flops,
            cost_usd=bill.usd,
            engine_model=self.engine.info.model,
            samples=tuple(s if s.tier else replace(s, tier=self.tier) for s in result.samples),
        )

    def _bill(self, run: Run) -> Cost:
        return cost(run.spend, self._shape, self._hardware, batch=self._batch(run))

    def _used(self, run: Run) -> Used:
        bill = self._bill(run)
        return Used(run.spend.total, bill.gpu_seconds, bill.usd)

    def _batch(self, run: Run) -> float:
        """How many of the run's own sequences were decoded together on average.

        Those of other requests share the steps too and are not known here: an upper bound of the bill.
        """
        together = mean_overlap([call.decoded_s for call in run.calls if call.decoded_s is not None])
        return min(together, self.engine.info.parallel)

    async def _checkpoints(self, run: Run) -> None:
        meter, task = self._meter, run.task
        while meter is not None:
            await asyncio.sleep(CHECKPOINT_EVERY_S)
            try:
                await meter.checkpoint(task.tenant, task.lease_id, task.spent_before + self._used(run))
            except Exception:  # the run must not die of its bookkeeping; settlement has the final number
                log.warning("checkpoint of lease %s failed", task.lease_id, exc_info=True)

    def _tell(self, run: Run) -> None:
        """Checkpoint the end of a run; nobody waits for it.

        Its caller may leave before it hears of the end. Then it is this that is charged.
        """
        meter, task = self._meter, run.task
        if meter is not None and task.lease_id:
            used = task.spent_before + self._used(run)
            telling = asyncio.create_task(meter.checkpoint(task.tenant, task.lease_id, used))
            self._telling.add(telling)
            telling.add_done_callback(self._told)

    def _told(self, telling: asyncio.Task[None]) -> None:
        self._telling.discard(telling)
        if not telling.cancelled() and (error := telling.exception()) is not None:
            log.warning("the end of a run was not told: %s", error)

    async def _abandon(self, run: Run) -> None:
        meter, task = self._meter, run.task
        if meter is None or not task.lease_id:
            return
        used = task.spent_before + self._used(run)
        try:
            await asyncio.shield(meter.abandon(task.tenant, task.lease_id, used))
        except Exception:  # the lease expires into its last checkpoint
            log.warning("lease %s could not be settled after its caller left", task.lease_id, exc_info=True)


def _joined(events: list[TierEvent | None]) -> list[TierEvent]:
    """Consecutive text deltas as one: the cost of a stream is per chunk."""
    joined: list[TierEvent] = []
    for event in events:
        last = joined[-1] if joined else None
        if isinstance(event, TextDelta) and isinstance(last, TextDelta):
            joined[-1] = TextDelta(last.text + event.text)
        elif event is not None:
            joined.append(event)
    return joined
