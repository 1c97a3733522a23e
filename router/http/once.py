"""Idempotency-Key: the same key with the same body is answered once and then told again."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import anyio

from backends.task import TextDelta
from router.codec import decode_reply, encode_reply
from router.errors import InvalidRequest
from router.http.mailbox import close_events
from router.idempotency import IdempotencyStore
from router.request import Caller, Reply, ReplyEvent, ReplyStream, RouteRequest, Service

MAX_KEY_CHARS = 255


@dataclass(frozen=True, slots=True)
class Ticket:
    """One use of a key: whose, which, and the digest of the body it came with."""

    tenant: str
    key: str
    fingerprint: str


def ticket(caller: Caller, key: bytes, body: bytes) -> Ticket:
    """Raises InvalidRequest unless the key is 1 to 255 printable ASCII characters."""
    text = key.decode("latin-1")
    if not (0 < len(text) <= MAX_KEY_CHARS and text.isascii() and text.isprintable()):
        message = f"Send an Idempotency-Key of 1 to {MAX_KEY_CHARS} printable ASCII characters."
        raise InvalidRequest(message, param="Idempotency-Key")
    return Ticket(caller.tenant, text, hashlib.sha256(body).hexdigest())


class OnceService:
    """A service for one request under a key. Nothing is run where the key's reply is kept already.

    Raises IdempotencyInFlight, IdempotencyReused, StoreUnavailable, and what the service raises. A failed
    or cancelled run gives the key back: the next request with it runs.
    """

    def __init__(self, service: Service, store: IdempotencyStore, ticket: Ticket) -> None:
        self._service = service
        self._store = store
        self._ticket = ticket

    async def complete(self, caller: Caller, request: RouteRequest) -> Reply:
        kept = await self._begin()
        if kept is not None:
            return kept
        reply: Reply | None = None
        try:
            reply = await self._service.complete(caller, request)
        finally:
            await self._finish(reply)
        return reply

    async def stream(self, caller: Caller, request: RouteRequest) -> ReplyStream:
        kept = await self._begin()
        if kept is not None:
            head = {"idempotent-replayed": "true"}
            return ReplyStream(kept.id, kept.created_s, kept.model, kept.limits, head, _again(kept))
        stream: ReplyStream | None = None
        try:
            stream = await self._service.stream(caller, request)
        finally:
            if stream is None:
                await self._finish(None)
        events = _KeptEvents(stream.events, self._finish)
        return ReplyStream(stream.id, stream.created_s, stream.model, stream.limits, stream.head, events)

    async def _begin(self) -> Reply | None:
        ticket = self._ticket
        kept = await self._store.begin(ticket.tenant, ticket.key, ticket.fingerprint)
        # An answer that an older version wrote cannot be told again; it can be made again.
        return None if kept is None else decode_reply(kept)

    async def _finish(self, reply: Reply | None) -> None:
        value = None if reply is None else encode_reply(reply)
        with anyio.CancelScope(shield=True):
            await self._store.finish(self._ticket.tenant, self._ticket.key, self._ticket.fingerprint, value)


class _KeptEvents:
    """Passes events on and keeps the reply. A class, since closing a generator that was never started runs
    nothing of it, and then the key would stay in flight.
    """

    def __init__(
        self, events: AsyncIterator[ReplyEvent], finish: Callable[[Reply | None], Awaitable[None]]
    ) -> None:
        self._events = events
        self._finish = finish
        self._reply: Reply | None = None
        self._closed = False

    def __aiter__(self) -> AsyncIterator[ReplyEvent]:
        return self

    async def __anext__(self) -> ReplyEvent:
        event = await self._events.__anext__()
        if isinstance(event, Reply):
            self._reply = event
        return event

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            await close_events(self._events)
        finally:
            await self._finish(self._reply)


async def _again(reply: Reply) -> AsyncGenerator[ReplyEvent, None]:
    if reply.choices and reply.choices[0].text:
        yield TextDelta(reply.choices[0].text)
    yield reply
