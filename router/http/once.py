"""Idempotency-Key: the same key with the same body is run once, and its reply told again byte for byte."""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import logging
from collections.abc import Awaitable, Callable

import anyio
from starlette.types import Message, Receive, Send

from router.background import Background
from router.errors import IdempotencyReused, InvalidRequest, StoreUnavailable, TierUnavailable
from router.http.errors import as_router_error, log_failure
from router.http.recording import Recorded, Recorder
from router.http.watch import client_gone, drop
from router.idempotency import HEARTBEAT_S, IdempotencyStore, Ticket, beat
from router.request import Caller

log = logging.getLogger(__name__)

MAX_KEY_CHARS = 255
# How long a reply that the store did not take is offered to it again.
AGAIN_AFTER_S = (0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0, 15.0, 15.0, 15.0)

# Sends the whole response; says whether the answer in it is whole. Raises what is refused before its start.
Respond = Callable[[Receive, Send], Awaitable[bool]]


def ticket(caller: Caller, key: bytes, body: bytes) -> Ticket:
    """Raises InvalidRequest unless the key is 1 to 255 printable ASCII characters, sent once."""
    text = key.decode("latin-1")
    if not (0 < len(text) <= MAX_KEY_CHARS and text.isascii() and text.isprintable()):
        message = f"Send one Idempotency-Key of 1 to {MAX_KEY_CHARS} printable ASCII characters."
        raise InvalidRequest(message, param="Idempotency-Key")
    return Ticket(caller.tenant, text, hashlib.sha256(body).hexdigest())


class Once:
    """Runs requests under their keys. For one event loop.

    A run belongs to its key and not to the connection that brought it: a client that leaves does not end
    it, and whoever comes back with the key gets its reply. A run that fails gives the key back.
    """

    def __init__(self, store: IdempotencyStore, *, heartbeat_s: float = HEARTBEAT_S) -> None:
        self._store = store
        self._heartbeat_s = heartbeat_s
        self._background = Background()

    async def aclose(self) -> None:
        """Wait a little for the runs, then end them: their keys are free again."""
        await self._background.aclose()

    async def answer(
        self, ticket: Ticket, request_id: str, respond: Respond, receive: Receive, send: Send
    ) -> None:
        """Tell the key's reply again, or `respond` and keep it.

        Raises IdempotencyInFlight, IdempotencyReused, StoreUnavailable, and what `respond` raises.
        """
        kept = await self._begin(ticket)
        if kept is not None:
            await kept.send(send, request_id)
            return
        recorder = Recorder()
        # Not in this request's context: what a framework does to its requests must not reach the run.
        run = self._background.spawn(self._run(ticket, recorder, respond), contextvars.Context())
        started = await _forward(recorder, receive, send)
        if not run.done():
            run.add_done_callback(lambda ended: _log_unknown(ended, request_id))
            return  # the client has left, and the run goes on
        if run.cancelled():
            if not started:
                raise TierUnavailable("This replica shuts down; ask again.", retry_after_s=1.0)
        elif (error := run.result()) is not None:
            raise error

    async def _begin(self, ticket: Ticket) -> Recorded | None:
        try:
            kept = await self._store.begin(ticket)
        except (StoreUnavailable, asyncio.CancelledError):
            # It may have been marked as running, and nobody runs it.
            self._background.spawn(self._finish_later(ticket, None))
            raise
        if kept is None:
            return None
        try:
            return Recorded.from_bytes(kept)
        except ValueError as error:
            message = "Use another Idempotency-Key: the reply of this one cannot be read any more."
            raise IdempotencyReused(message) from error

    async def _run(self, ticket: Ticket, recorder: Recorder, respond: Respond) -> Exception | None:
        """What the client is to be told instead of a response, if anything."""
        beating = asyncio.create_task(beat(self._store, ticket, self._heartbeat_s))
        whole = False
        try:
            whole = await respond(_stays, recorder.send)
        except Exception as error:
            return error
        finally:
            # Kept before its last byte is sent: whoever has seen the end can count on the key.
            reply = recorder.recorded().to_bytes() if whole else None
            with anyio.CancelScope(shield=True):
                beating.cancel()
                if not await self._store.finish(ticket, reply):
                    self._background.spawn(self._finish_later(ticket, reply))
            recorder.end()
        return None

    async def _finish_later(self, ticket: Ticket, reply: bytes | None) -> None:
        for pause_s in AGAIN_AFTER_S:
            if await self._store.finish(ticket, reply):
                return
            await asyncio.sleep(pause_s)
        log.error("the idempotency store was away too long: a key that was answered may be run again")


def _log_unknown(run: asyncio.Task[Exception | None], request_id: str) -> None:
    """An error of ours that no client is there to be told of."""
    error = None if run.cancelled() else run.result()
    if error is not None and as_router_error(error) is None:
        log_failure(error, request_id)


async def _stays() -> Message:
    """The receive of a run: nobody's connection, so it is never closed."""
    return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]


async def _forward(recorder: Recorder, receive: Receive, send: Send) -> bool:
    """Hand the response on until it ends or the client leaves; whether any of it was sent."""
    messages, started = recorder.messages, False
    gone = asyncio.ensure_future(client_gone(receive))
    gone.add_done_callback(lambda _: messages.put_nowait(None))
    try:
        while (message := await messages.get()) is not None:
            started = True
            await send(message)
    except OSError:
        pass  # which is how servers say that the client has left
    finally:
        drop(gone)
    return started
