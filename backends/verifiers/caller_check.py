"""The caller's own check as a score: passed or not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backends.strategies.base import Run
    from backends.task import Sample


async def caller_check(run: Run, replies: Sequence[Sample]) -> list[float | None]:
    """1.0 for a reply that passes `compute.verify`, 0.0 for one that does not; None where none was given."""
    passed = [run.passes(reply.text) for reply in replies]
    return [None if verdict is None else float(verdict) for verdict in passed]
