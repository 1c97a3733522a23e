"""transformers' continuous batching as an event loop sees it: requests in, outputs and failures out.

The manager generates in a thread of its own. Its outputs arrive through `call_soon_threadsafe`; what it never
reports (a cancelled request, a thread that died) is found out here, so that no request waits for ever.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from backends.errors import EngineUnavailable

NAME = "transformers' continuous batching"
WATCH_EVERY_S = 0.25


class Request:
    """One request at the manager; its newest output replaces one that nobody has read yet."""

    def __init__(self, batcher: Batcher, request_id: str) -> None:
        self._batcher = batcher
        self._id = request_id
        self._output: Any = None
        self._error: EngineUnavailable | None = None
        self._news = asyncio.Event()
        self._cancelled = False
        self.ended = False
        self.cached_tokens = 0

    async def next(self, timeout_s: float) -> tuple[Any, bool]:
        """The newest `GenerationOutput` (all tokens from the start), and whether it is the last.

        Raises EngineUnavailable.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        except TimeoutError as error:
            raise EngineUnavailable(f"{NAME} sent nothing for {timeout_s:g} s") from error
        self._news.clear()
        if self._error is not None:
            raise self._error
        return self._output, self.ended

    def cancel(self) -> None:
        """Stop it after the step that is running; its last output still comes. May be called twice."""
        if not self.ended and not self._cancelled:
            self._cancelled = True
            self._batcher.manager.cancel_request(self._id)

    def deliver(self, output: Any, last: bool = False) -> None:
        """An output of the manager; `last` where it ends the request without being a finished one."""
        if output.error is not None:
            self.fail(EngineUnavailable(f"{NAME} failed while it generated; its log says why"))
            return
        self._output = output
        if last or output.is_finished():
            self._end()
        self._news.set()

    def fail(self, error: EngineUnavailable) -> None:
        self._error = error
        self._end()
        self._news.set()

    def _end(self) -> None:
        self.ended = True
        self.cached_tokens = self._batcher.forget(self._id)


class Batcher:
    """Owns a warmed-up manager: starts its thread, hands requests in, notices when the thread is dead.

    Used from the event loop it was started on.
    """

    def __init__(self, manager: Any) -> None:
        self.manager = manager
        self._scheduler = manager.batch_processor.scheduler
        self._ids = itertools.count()
        self._requests: dict[str, Request] = {}
        self._watching: asyncio.Task[None] | None = None
        self._closed = False

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._scheduler.on_cancelled = lambda outputs: loop.call_soon_threadsafe(self._cancelled, outputs)
        self.manager.start()
        self._watching = loop.create_task(self._watch())

    async def stop(self) -> None:
        """End the thread after its running step; requests fail with EngineUnavailable."""
        self._closed = True  # calls that wait for a place get one now, and must not hand anything in
        if self._watching is not None:
            self._watching.cancel()
        self._fail_all(f"{NAME} was closed while it generated")
        await asyncio.to_thread(self.release)

    def release(self) -> None:
        """Stop the thread and free the cache; blocks for a step."""
        if self.manager.is_running():
            self.manager.stop(block=True, hard_stop=True)
        self.manager.destroy()

    def alive(self) -> bool:
        """Whether the thread runs and takes requests."""
        status = self.manager.background_thread_status
        return bool(self.manager.is_running()) and status.can_accept_new_requests() is None

    @property
    def active(self) -> int:
        """Requests that the manager works on or keeps waiting, cancelled ones until it has let go of them."""
        return len(self._scheduler.active_requests) + len(self._scheduler.waiting_requests)

    @property
    def forward_tokens(self) -> int:
        """Tokens the model has computed since the start, of prompts and completions."""
        return int(self._scheduler.forward_tokens)

    def submit(self, prompt: Sequence[int], max_tokens: int, drawn: Mapping[str, Any]) -> Request:
        """Hand a request in; `drawn` are its sampling arguments. Raises EngineUnavailable."""
        request_id = str(next(self._ids))
        request = self._requests[request_id] = Request(self, request_id)
        self.manager.register_result_handler(request_id, request.deliver)
        taken = (
            not self._closed
            and self.alive()
            and self.manager.add_request(
                list(prompt), request_id=request_id, max_new_tokens=max_tokens, streaming=True, **drawn
            )
        )
        if not taken:
            self.forget(request_id)
            raise EngineUnavailable(f"{NAME} is not running: its thread has stopped")
        return request

    def forget(self, request_id: str) -> int:
        """Drop what is kept for a request that is over; how much of its prompt was cached."""
        self._requests.pop(request_id, None)
        self.manager.output_router.result_handlers.pop(request_id, None)
        return int(self._scheduler.cached_tokens.pop(request_id, 0))

    def _cancelled(self, outputs: list[Any]) -> None:
        for output in outputs:
            request = self._requests.get(output.request_id)
            if request is not None:
                request.deliver(output, last=True)

    def _fail_all(self, reason: str) -> None:
        for request in list(self._requests.values()):
            request.fail(EngineUnavailable(reason))

    async def _watch(self) -> None:
        # A thread that dies of an exception fails its requests itself, but not one that came in meanwhile.
        while self.manager.is_running():  # noqa: ASYNC110  (the end of a thread sets no event)
            await asyncio.sleep(WATCH_EVERY_S)
        self._fail_all(f"{NAME} has stopped: its thread died")
