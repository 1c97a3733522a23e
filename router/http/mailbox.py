"""What a stream's reader has read and its writer has not yet written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import anyio

from backends.task import Progress, TextDelta
from router.request import Reply, ReplyEvent


class Mailbox:
    """Text, latest progress and the end of one answer, between two tasks of one event loop.

    It is not bounded: an answer is, by its token limits, and an engine that is read to its end is free for
    others, however slowly this client reads.
    """

    __slots__ = ("_keep_progress", "_news", "_over", "_progress", "_text", "client_left", "error", "reply")

    def __init__(self, *, keep_progress: bool) -> None:
        self._keep_progress = keep_progress
        self._text: list[str] = []
        self._news = asyncio.Event()
        self._over = asyncio.Event()
        self._progress: Progress | None = None
        self.reply: Reply | None = None
        self.error: Exception | None = None
        self.client_left = False

    def put(self, event: ReplyEvent) -> None:
        # What will not be sent is no news: it must not put off the next heartbeat.
        if isinstance(event, TextDelta):
            if not event.text:
                return
            self._text.append(event.text)
        elif isinstance(event, Progress):
            if not self._keep_progress:
                return
            self._progress = event
        else:
            self.reply = event
            self._over.set()
        self._news.set()

    def close(self, error: Exception | None) -> None:
        """No more events, for this reason if it is a bad one."""
        self.error = error
        self._over.set()
        self._news.set()

    def leave(self) -> None:
        self.client_left = True
        self._over.set()
        self._news.set()

    def take_text(self) -> str:
        text = "".join(self._text)
        self._text.clear()
        return text

    def take_progress(self) -> Progress | None:
        progress, self._progress = self._progress, None
        return progress

    @property
    def over(self) -> bool:
        return self._over.is_set()

    @property
    def has_text(self) -> bool:
        return bool(self._text)

    async def news(self, timeout_s: float) -> bool:
        """Wait until something came since the last call. False after `timeout_s` of silence."""
        got = await _within(self._news, timeout_s)
        if not self.over:
            self._news.clear()
        return got

    async def end(self, timeout_s: float) -> bool:
        """Wait for the end, whatever else comes. False if it has not come after `timeout_s`."""
        return await _within(self._over, timeout_s)


async def _within(event: asyncio.Event, timeout_s: float) -> bool:
    if event.is_set():
        return True
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return False
    return True


async def pump(events: AsyncIterator[ReplyEvent], mailbox: Mailbox) -> None:
    """Read `events` to their end and close them, whatever happens; runs as a task of its own.

    The task stays alive until the service has cleaned up (settled its lease), also when the request's own
    task is cancelled meanwhile.
    """
    failure: Exception | None = None
    try:
        async for event in events:
            mailbox.put(event)
    except Exception as error:
        failure = error
    finally:
        # Also after a CancelledError: whoever waits for news must not wait for ever.
        mailbox.close(failure)
        await close_events(events)


async def close_events(events: AsyncIterator[ReplyEvent]) -> None:
    """Close the iterator if it can be closed, shielded from cancellation; doing it twice is harmless."""
    aclose = getattr(events, "aclose", None)
    if aclose is not None:
        with anyio.CancelScope(shield=True):
            await aclose()
