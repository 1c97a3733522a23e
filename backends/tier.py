"""A tier as a Ray Serve deployment: a `TierRunner` behind a handle, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing

from ray import serve

from backends.runner import TierRunner
from backends.task import TierEvent, TierResult, TierTask

MakeRunner = Callable[[], Awaitable[TierRunner]]
"""Makes what a tier runs on, in the replica's own process: picklable, and blocking work goes to threads."""


READY_POLL_S = 1.0


class EngineUnwell(RuntimeError):
    """The engine does not answer; Serve replaces the replica."""


@serve.deployment
class Tier:
    """One replica: one engine.

    Runs belong to the runner: when a caller leaves, Serve cancels the call, and the run finishes its
    bookkeeping on its own. Health is the engine's alone; a replica must not die because a store does.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, make_runner: MakeRunner, ready_timeout_s: float = 600.0
    ) -> None:
        self._runner = await make_runner()
        await self._runner.start()
        await self._until_well(ready_timeout_s)

    async def run(self, task: TierTask) -> TierResult:
        return await self._runner.run(task)

    async def stream(self, task: TierTask) -> AsyncIterator[TierEvent]:
        # Closed at once, and without an await that Serve would cut off, so that the run ends with its caller.
        async with aclosing(self._runner.stream(task)) as events:
            async for event in events:
                yield event

    async def healthy(self) -> bool:
        return await self._runner.healthy()

    async def _until_well(self, timeout_s: float) -> None:
        """A server that still loads its weights is no reason to be replaced; Serve sends nothing yet."""
        try:
            async with asyncio.timeout(timeout_s):
                while not await self._runner.healthy():  # noqa: ASYNC110  it must be asked
                    await asyncio.sleep(READY_POLL_S)
        except TimeoutError:
            raise EngineUnwell(
                f"the engine of the tier {self._runner.tier} was not up after {timeout_s:g} s"
            ) from None

    async def check_health(self) -> None:
        """Called by Serve every few seconds."""
        if not await self._runner.healthy():
            raise EngineUnwell(f"the engine of the tier {self._runner.tier} does not answer")

    async def __del__(self) -> None:
        """Serve awaits this when the replica shuts down: running work is cancelled and settled first."""
        if hasattr(self, "_runner"):
            await self._runner.aclose()
