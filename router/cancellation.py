"""A cancellation must not get lost in a library."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def heeding_cancellation(work: Awaitable[T]) -> T:
    """The result of `work`; CancelledError if the task was cancelled meanwhile, even if `work` ignored it.

    redis-py sends commands within `asyncio.wait_for`, which in Python 3.11 drops a cancellation that comes
    just as the sending is done (3.12 rewrote it). A request whose client has left would
    then run on to its end, and be charged for.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    try:
        return await work
    finally:
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError
