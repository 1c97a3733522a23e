"""POST /v1/chat/completions and POST /v1/explain, as plain ASGI: this is the hot path."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import pydantic_core
from starlette.types import Receive, Scope, Send

from router.http.auth import authenticate
from router.http.convert import route_request
from router.http.errors import ClientLeft, error_wire
from router.http.headers import RequestHead, json_headers, read_head
from router.http.mailbox import close_events
from router.http.once import Once, ticket
from router.http.parse import check_head, parse_json, read_body
from router.http.refusals import chat_request
from router.http.replies import reply_wire
from router.http.schemas import ChatRequest
from router.http.settings import HttpSettings
from router.http.sse import SseResponse
from router.http.watch import unless_left
from router.http.wire import Wire
from router.request import Caller, ReplyStream, RouteRequest, Service


@dataclass(frozen=True, slots=True)
class _Incoming:
    """A request that has been let in."""

    head: RequestHead
    body: bytes
    caller: Caller
    chat: ChatRequest
    request: RouteRequest


class _Endpoint:
    """What both have in common: the way in, cheapest refusals first, and every error's way out."""

    def __init__(self, service: Service, settings: HttpSettings) -> None:
        self._service = service
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = read_head(scope)
        try:
            caller = authenticate(self._service, head)
            check_head(head, self._settings)
            body = await read_body(receive, self._settings)
            chat = chat_request(parse_json(body))
            incoming = _Incoming(head, body, caller, chat, route_request(chat, head))
            await self._answer(incoming, receive, send)
        except ClientLeft:
            return
        except Exception as error:
            await error_wire(error, head.request_id).send(send)

    async def _answer(self, incoming: _Incoming, receive: Receive, send: Send) -> None:
        raise NotImplementedError


class ChatEndpoint(_Endpoint):
    def __init__(self, service: Service, settings: HttpSettings, once: Once) -> None:
        super().__init__(service, settings)
        self._once = once

    async def _answer(self, incoming: _Incoming, receive: Receive, send: Send) -> None:
        head = incoming.head
        respond = partial(self._respond, incoming)
        if head.idempotency_key is None:
            await respond(receive, send)
            return
        key = ticket(incoming.caller, head.idempotency_key, incoming.body)
        await self._once.answer(key, head.request_id, respond, receive, send)

    async def _respond(self, incoming: _Incoming, receive: Receive, send: Send) -> bool:
        """Send the whole response; False if the answer in it broke off."""
        head, caller, request = incoming.head, incoming.caller, incoming.request
        if not incoming.chat.stream:
            reply = await unless_left(self._service.complete(caller, request), receive)
            await reply_wire(reply, head.request_id).send(send)
            return True
        stream = await unless_left(self._service.stream(caller, request), receive, _discard)
        options = incoming.chat.stream_options
        response = SseResponse(
            stream,
            request_id=head.request_id,
            include_usage=options is not None and options.include_usage,
            progress=request.progress,
            settings=self._settings,
        )
        await response.run(receive, send)
        return response.whole


async def _discard(stream: ReplyStream) -> None:
    await close_events(stream.events)


class ExplainEndpoint(_Endpoint):
    async def _answer(self, incoming: _Incoming, receive: Receive, send: Send) -> None:
        work = self._service.explain(incoming.caller, incoming.request)
        explanation = await unless_left(work, receive)
        # Not `to_json`: what a service explains may hold infinities (no budget) and dataclasses.
        body = pydantic_core.to_json(explanation, inf_nan_mode="null")
        await Wire(200, json_headers(incoming.head.request_id), body).send(send)
