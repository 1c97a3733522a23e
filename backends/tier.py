"""A tier as a Ray Serve deployment: a `TierRunner` behind a handle, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing

from ray import serve

from backends.runner import TierRunner
from backends.task import TierEvent, TierResult, TierTask

MakeRunner = Callable[[], Awaitable[TierRunner]]
"""Makes what a tier runs on, in the replica's own process: picklable, and blocking work goes to threads."""


class EngineUnwell(RuntimeError):
    """The engine does not answer; Serve replaces the replica."""


@serve.deployment
class Tier:
    """One replica: one engine.

    Runs belong to the runner: when a caller leaves, Serve cancels the call, and the run finishes its
    bookkeeping on its own. Health is the engine's alone; a replica must not die because a store does.
    """

    async def __init__(self, make_runner: MakeRunner) -> None:
        self._runner = await make_runner()
        await self._runner.start()

    async def run(self, task: TierTask) -> TierResult:
        return await self._runner.run(task)

    async def stream(self, task: TierTask) -> AsyncIterator[TierEvent]:
        # Closed at once, and without an await that Serve would cut off, so that the run ends with its caller.
        async with aclosing(self._runner.stream(task)) as events:
            async for event in events:
                yield event

    async def healthy(self) -> bool:
        return await self._runner.healthy()

    async def check_health(self) -> None:
        """Called by Serve every few seconds."""
        if not await self._runner.healthy():
            raise EngineUnwell(f"the engine of the tier {self._runner.tier} does not answer")

    async def __del__(self) -> None:
        """Serve awaits this when the replica shuts down: running work is cancelled and settled first."""
        if hasattr(self, "_runner"):
            await self._runner.aclose()
