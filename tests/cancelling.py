"""Cancel a request at its k-th suspension point, for every k: nothing may be lost at any await."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any


class Stepped(Coroutine[Any, Any, Any]):
    """A coroutine that calls `suspended(n)` whenever it has suspended, for the n-th time."""

    def __init__(self, inner: Coroutine[Any, Any, Any], suspended: Callable[[int], None]) -> None:
        self._inner = inner
        self._suspended = suspended
        self._count = 0

    def send(self, value: Any) -> Any:
        return self._counted(self._inner.send(value))

    def throw(self, *error: Any) -> Any:
        return self._counted(self._inner.throw(*error))

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield from self._inner.__await__())

    def _counted(self, yielded: Any) -> Any:
        self._count += 1
        # Not now: the task has yet to take what was yielded.
        asyncio.get_running_loop().call_soon(self._suspended, self._count)
        return yielded


async def cancelled_at(
    k: int, name: str, work: Callable[[], Awaitable[object]], *, leave: bool = False
) -> bool:
    """Run `work` and cancel it when the task of the coroutine `name` has suspended for the k-th time.

    With `leave` whoever called is cancelled, as when a client hangs up, else that task itself. False if it
    was done before: then no suspension point is left. Raises what `work` raises, CancelledError excepted.
    """
    loop = asyncio.get_running_loop()
    outer: asyncio.Task[object] | None = None
    struck = False

    def made(
        loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        if getattr(coroutine, "__qualname__", "") != name:
            return asyncio.Task(coroutine, loop=loop, **options)

        def suspended(count: int) -> None:
            nonlocal struck
            if count == k and not task.done():
                struck = True
                (outer if leave and outer is not None else task).cancel()

        task: asyncio.Task[Any] = asyncio.Task(Stepped(coroutine, suspended), loop=loop, **options)
        return task

    before = loop.get_task_factory()
    loop.set_task_factory(made)
    try:
        outer = asyncio.ensure_future(work())  # type: ignore[assignment]
        try:
            await outer
        except asyncio.CancelledError:
            if not struck:
                raise
    finally:
        loop.set_task_factory(before)
    return struck
