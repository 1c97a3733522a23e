"""Whether the client is still there. Servers differ: some cancel the request, some only say so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
from starlette.types import Receive

from router.http.errors import ClientLeft

T = TypeVar("T")


async def client_gone(receive: Receive) -> None:
    """Return when the client has closed the connection. Call it only after the body has been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_left(
    work: Awaitable[T], receive: Receive, discard: Callable[[T], Awaitable[None]] | None = None
) -> T:
    """The result of `work`, which is cancelled if the client leaves first (ClientLeft).

    Returns or raises only after `work` has ended, its clean-up included. A result that came too late to be
    returned goes to `discard`.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(client_gone(receive))
    taken = False
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done() and not gone.cancelled() and gone.exception() is None:
            raise ClientLeft
        result = await task
        taken = True
        return result
    finally:
        drop(gone)
        await stop(task)
        if not taken and discard is not None and not task.cancelled() and task.exception() is None:
            await discard(task.result())


def drop(task: asyncio.Future[T]) -> None:
    """Cancel a task that has nothing to clean up, and whose failure means nothing."""
    if not task.cancel() and not task.cancelled():
        task.exception()


async def stop(task: asyncio.Future[T]) -> None:
    """Cancel the task and wait until it has cleaned up, also while being cancelled oneself."""
    if not task.done():
        task.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait((task,))
    if not task.cancelled():
        # Looked at, so that the loop does not log it, and with it perhaps a prompt, as never retrieved.
        task.exception()
