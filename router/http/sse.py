"""A streamed answer on its way to the client: chunks, heartbeats, errors, and the client's leaving."""

from __future__ import annotations

import asyncio

import anyio
from starlette.types import Receive, Send

from router.http.errors import as_router_error, log_failure
from router.http.frames import KEEP_ALIVE, Frames, error_frame, progress_comment
from router.http.headers import limit_headers, named_headers, sse_headers
from router.http.mailbox import Mailbox, pump
from router.http.settings import HttpSettings
from router.http.watch import client_gone, drop, stop
from router.request import ReplyStream


class StreamBroken(Exception):
    """The service's events ended without a reply."""


class SseResponse:
    """Sends one ReplyStream.

    Text goes out at once first and then coalesced; a comment breaks every silence. An error that comes
    before the first byte is raised, so that it gets its own status; later ones become the last event.
    """

    def __init__(
        self,
        stream: ReplyStream,
        *,
        request_id: str,
        include_usage: bool,
        progress: bool,
        settings: HttpSettings,
    ) -> None:
        self._stream = stream
        self._request_id = request_id
        self._frames = Frames(stream, include_usage=include_usage)
        self._settings = settings
        self._started = False
        self._mailbox = Mailbox(keep_progress=progress)

    async def run(self, receive: Receive, send: Send) -> None:
        """Returns when the answer is sent or the client has left, and the events are closed."""
        mailbox = self._mailbox
        reader = asyncio.ensure_future(pump(self._stream.events, mailbox))
        watcher = asyncio.ensure_future(self._watch(receive))
        try:
            await self._write(send)
            if mailbox.reply is not None:
                # The service still settles after its last event; the client has its answer already.
                with anyio.CancelScope(shield=True):
                    await asyncio.wait((reader,))
                self._log_late_error()
        except Exception as error:
            if not self._started:
                raise
            if not isinstance(error, OSError):  # which is how servers say that the client has left
                log_failure(error, self._request_id)
        finally:
            drop(watcher)
            await stop(reader)

    @property
    def whole(self) -> bool:
        """The answer is there to its end."""
        return self._mailbox.reply is not None

    async def _watch(self, receive: Receive) -> None:
        await client_gone(receive)
        self._mailbox.leave()

    async def _write(self, send: Send) -> None:
        mailbox, settings = self._mailbox, self._settings
        prompt = await mailbox.news(settings.first_event_s)
        if mailbox.client_left:
            return
        if mailbox.over and mailbox.reply is None and not mailbox.has_text:
            raise self._failure()
        await self._start(send)
        if not prompt:
            await _body(send, KEEP_ALIVE)
        while not mailbox.client_left:
            out = self._take()
            if mailbox.over:
                await _body(send, out + self._end(), more=False)
                return
            if out:
                await _body(send, out)
                # News until then wait for the rest of their slice.
                await mailbox.end(settings.coalesce_s)
            elif not await mailbox.news(settings.heartbeat_s):
                await _body(send, KEEP_ALIVE)

    def _take(self) -> bytes:
        """What has come since the last call, as bytes."""
        out = b""
        progress = self._mailbox.take_progress()
        if progress is not None:
            out = progress_comment(progress)
        text = self._mailbox.take_text()
        return out + self._frames.text(text) if text else out

    def _end(self) -> bytes:
        reply = self._mailbox.reply
        if reply is not None:
            return self._frames.end(reply)
        failure = self._failure()
        if as_router_error(failure) is None:
            log_failure(failure, self._request_id)
        return error_frame(failure)

    def _failure(self) -> Exception:
        return self._mailbox.error or StreamBroken()

    def _log_late_error(self) -> None:
        if self._mailbox.error is not None:
            log_failure(self._mailbox.error, self._request_id)

    async def _start(self, send: Send) -> None:
        headers = sse_headers(self._request_id)
        headers += limit_headers(self._stream.limits)
        headers += named_headers(self._stream.head)
        self._started = True
        await send({"type": "http.response.start", "status": 200, "headers": headers})


async def _body(send: Send, data: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": more})
