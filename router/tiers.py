"""How the pipeline reaches tiers, wherever they run."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Protocol

from backends.runner import TierRunner
from backends.task import TierEvent, TierResult, TierTask
from router.errors import TierUnavailable


class TierClient(Protocol):
    """The tiers by name.

    Both calls raise a BackendError as the tier raised it (with its `spend`), and TierUnavailable or
    Overloaded where the tier never ran the task or is gone. Cancelling the caller cancels the task on its
    tier, which settles what it had spent by itself.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """Of the tiers that are deployed."""
        ...

    async def run(self, tier: str, task: TierTask) -> TierResult: ...

    def stream(self, tier: str, task: TierTask) -> AsyncGenerator[TierEvent, None]:
        """The task's events and, last, its result."""
        ...

    async def healthy(self, tier: str) -> bool:
        """Does a replica answer, and is its engine well? False within 3 s where nobody says so."""
        ...


class InProcessTiers:
    """Tiers in this process: for tests, replays and measurements without Ray."""

    def __init__(self, runners: Mapping[str, TierRunner]) -> None:
        self._runners = dict(runners)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._runners)

    async def run(self, tier: str, task: TierTask) -> TierResult:
        return await self._runner(tier).run(task)

    async def stream(self, tier: str, task: TierTask) -> AsyncGenerator[TierEvent, None]:
        async for event in self._runner(tier).stream(task):
            yield event

    async def healthy(self, tier: str) -> bool:
        return tier in self._runners and await self._runners[tier].healthy()

    def _runner(self, tier: str) -> TierRunner:
        try:
            return self._runners[tier]
        except KeyError:
            raise TierUnavailable(f"The tier {tier} is not deployed here; ask for auto.") from None
