"""POST /v1/feedback: what the caller found an answer to be worth. As plain ASGI, refused as chat is."""

from __future__ import annotations

from typing import Any

from starlette.types import Receive, Scope, Send

from router.http.auth import authenticate
from router.http.errors import ClientLeft, error_wire
from router.http.headers import json_headers, limit_headers, read_head
from router.http.parse import check_head, parse_json, read_body
from router.http.refusals import validated
from router.http.schemas import FeedbackRequest
from router.http.settings import HttpSettings
from router.http.watch import unless_left
from router.http.wire import Wire, to_json
from router.request import Service

MAX_BODY_BYTES = 4_096


class FeedbackEndpoint:
    def __init__(self, service: Service, settings: HttpSettings) -> None:
        self._service = service
        small = min(MAX_BODY_BYTES, settings.max_body_bytes)
        self._settings = settings.model_copy(update={"max_body_bytes": small})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = read_head(scope)
        try:
            caller = authenticate(self._service, head)
            check_head(head, self._settings)
            body = parse_json(await read_body(receive, self._settings))
            said = validated(FeedbackRequest, body)
            work = self._service.feedback(caller, said.decision_id, float(said.score))
            limits = await unless_left(work, receive)
            headers = json_headers(head.request_id) + limit_headers(limits)
            await Wire(200, headers, to_json(_kept(said))).send(send)
        except ClientLeft:
            return
        except Exception as error:
            await error_wire(error, head.request_id).send(send)


def _kept(said: FeedbackRequest) -> dict[str, Any]:
    return {"object": "feedback", "decision_id": said.decision_id, "score": said.score}
