"""Mean log-probability of a reply's own tokens: free wherever the engine tells log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from backends.errors import StrategyUnsupported

if TYPE_CHECKING:
    from backends.strategies.base import Run
    from backends.task import Sample


async def mean_logprob(run: Run, replies: Sequence[Sample]) -> list[float | None]:
    """Natural log, at most 0. Raises StrategyUnsupported where the engine tells none."""
    if not run.engine.info.logprobs:
        raise StrategyUnsupported(f"{run.engine.info.model} tells no log-probabilities to score replies by")
    return [reply.mean_logprob for reply in replies]
