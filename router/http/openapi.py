"""The OpenAPI document: the hot routes are bare ASGI, so theirs is written here, from the same models."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from router.http import examples
from router.http.schemas import ChatRequest, FeedbackRequest
from router.http.schemas_out import ChatCompletion, ErrorEnvelope, FeedbackKept

TITLE = "Adaptive compute router"
VERSION = "1"
DESCRIPTION = (
    "Chat completions with just enough inference-time compute. OpenAI's clients work unmodified: point their "
    "base_url at /v1. `model` is `auto`, or a tier by name; `reasoning_effort` is the ceiling of compute; "
    "`usage.compute` of the reply is the receipt."
)

_REF = "#/components/schemas/"
_JSON = "application/json"

# Status -> its codes, as in the contract's table.
_REFUSALS = {
    400: "invalid_json, invalid_value, unknown_parameter, unsupported_parameter, context_length_exceeded",
    401: "invalid_api_key",
    403: "tier_not_allowed",
    404: "model_not_found",
    408: "request_timeout",
    409: "idempotency_key_in_flight (x-should-retry: true)",
    413: "request_too_large",
    415: "unsupported_media_type",
    422: "idempotency_key_reused",
    429: "rate_limit_exceeded (x-should-retry: true), insufficient_quota, request_exceeds_budget",
    431: "headers_too_large",
    500: "internal_error",
    502: "upstream_error",
    503: "overloaded, budget_store_unavailable, tier_unavailable (all with Retry-After)",
    504: "deadline_exceeded",
}

_FEEDBACK_REFUSALS = {
    **{status: _REFUSALS[status] for status in (401, 408, 413, 415, 431, 500)},
    400: "invalid_json, invalid_value, unknown_parameter",
    404: "decision_not_found: no decision of this key's tenant has this id",
    429: "rate_limit_exceeded (x-should-retry: true)",
    503: "decision_log_unavailable, budget_store_unavailable (with Retry-After)",
}

_REQUEST_HEADERS = {
    "Idempotency-Key": "The same key with the same body is run once; later ones get the same reply.",
    "x-request-id": "At most 128 of A-Z a-z 0-9 . _ : / + = @ ~ -; echoed, made up if absent or otherwise.",
    "traceparent": "W3C trace context; its trace id goes into the decision record.",
    "Cache-Control": "`no-cache` answers afresh, `no-store` also keeps nothing, `max-age=N` takes no stored "
    "answer that is older than N seconds.",
}

_REPLY_HEADERS = {
    "x-request-id": "Names this request to the operators.",
    "x-acr-schema-version": "Version of the x-acr headers and of usage.compute.",
    "x-acr-tier": "The tier that answered.",
    "x-acr-strategy": "How it did.",
    "x-acr-samples": "Samples drawn to their end.",
    "x-acr-stop-reason": "Why it stopped drawing.",
    "x-acr-confidence": "Belief that the answer is right, where there is evidence for one.",
    "x-acr-cache": "hit, semantic (the answer to a like question), miss or bypass.",
    "x-acr-degraded": "true where budget or load forced a smaller plan.",
    "x-acr-policy": "The policy version that decided.",
    "x-acr-decision-id": "The decision in the log; what POST /v1/feedback is about. Refusals have it too.",
    "x-acr-overhead-ms": "Time spent outside the engines.",
    "x-acr-budget-remaining": "Tokens left in the tightest budget.",
    **{
        f"x-ratelimit-{what}-{unit}": f"{unit.capitalize()} per minute, the tenant's or the key's: {what}."
        for unit in ("requests", "tokens")
        for what in ("limit", "remaining", "reset")
    },
}

_STREAM = (
    "Server-sent events: `chat.completion.chunk` objects, the last one with `choices: []` and the usage if "
    "`stream_options.include_usage`, then `data: [DONE]`. Comment lines (`: keep-alive`) break silences; "
    "with `compute.progress` there are comments `: acr.progress {json}`. An error after the first byte is a "
    '`data: {"error": ...}` and the end. x-acr headers hold what is known before the first token.'
)


def describe(app: FastAPI) -> None:
    """Make `app.openapi()` complete."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    _, definitions = models_json_schema(
        [
            (ChatRequest, "validation"),
            (ChatCompletion, "serialization"),
            (FeedbackRequest, "validation"),
            (FeedbackKept, "serialization"),
            (ErrorEnvelope, "serialization"),
        ],
        ref_template=_REF + "{model}",
    )
    components = document.setdefault("components", {})
    components.setdefault("schemas", {}).update(definitions["$defs"])
    components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    for path, item in document["paths"].items():
        if path.startswith("/v1/"):
            for operation in item.values():
                operation["security"] = [{"bearer": []}]
                # FastAPI's own validation error, which this service never sends.
                operation["responses"].pop("422", None)
    for leftover in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(leftover, None)
    document["paths"] = {
        "/v1/chat/completions": {"post": _chat()},
        "/v1/explain": {"post": _explain()},
        "/v1/feedback": {"post": _feedback()},
        **document["paths"],
    }
    return document


def _chat() -> dict[str, Any]:
    content = {
        _JSON: {
            "schema": {"$ref": _REF + "ChatCompletion"},
            "examples": {"reply": {"value": examples.COMPLETION}},
        },
        "text/event-stream": {
            "schema": {"type": "string", "description": _STREAM},
            "examples": {"stream": {"value": examples.STREAM}},
        },
    }
    headers = {
        name: {"description": text, "schema": {"type": "string"}} for name, text in _REPLY_HEADERS.items()
    }
    answered = {"description": "The answer and its receipt.", "content": content, "headers": headers}
    return _operation("chat", "Answer a chat", "The router decides how much compute.", answered)


def _explain() -> dict[str, Any]:
    example = {"plan": {"value": examples.EXPLANATION}}
    content = {_JSON: {"schema": {"type": "object"}, "examples": example}}
    answered = {"description": "The plan that this body would get, and why.", "content": content}
    return _operation("explain", "Explain a plan", "Nothing is run and nothing is charged.", answered)


def _feedback() -> dict[str, Any]:
    kept = {"object": "feedback", **examples.FEEDBACK}
    answered = {
        "description": "It was kept; the last feedback for a decision counts.",
        "content": {_JSON: {"schema": {"$ref": _REF + "FeedbackKept"}, "example": kept}},
    }
    asked = {"schema": {"$ref": _REF + "FeedbackRequest"}, "example": examples.FEEDBACK}
    said = "Tells the decision log what an answer was worth, for the tenant that asked for it."
    return {
        "tags": ["feedback"],
        "operationId": "feedback",
        "summary": "Judge an answer",
        "description": said,
        "security": [{"bearer": []}],
        "requestBody": {"required": True, "content": {_JSON: asked}},
        "responses": {"200": answered, **_refused(_FEEDBACK_REFUSALS)},
    }


def _refused(refusals: dict[int, str]) -> dict[str, Any]:
    return {
        str(status): {
            "description": codes,
            "content": {_JSON: {"schema": {"$ref": _REF + "ErrorEnvelope"}}},
        }
        for status, codes in sorted(refusals.items())
    }


def _operation(tag: str, summary: str, description: str, answered: dict[str, Any]) -> dict[str, Any]:
    body = {
        _JSON: {
            "schema": {"$ref": _REF + "ChatRequest"},
            "examples": {name: {"value": value} for name, value in examples.REQUESTS.items()},
        }
    }
    refused = _refused(_REFUSALS)
    refused["429"]["content"][_JSON]["example"] = examples.ERROR
    return {
        "tags": [tag],
        "operationId": tag,
        "summary": summary,
        "description": description,
        "security": [{"bearer": []}],
        "parameters": [
            {"name": name, "in": "header", "description": text, "schema": {"type": "string"}}
            for name, text in _REQUEST_HEADERS.items()
        ],
        "requestBody": {"required": True, "content": body},
        "responses": {"200": answered, **refused},
    }
