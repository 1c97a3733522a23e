"""Request headers read in one pass; response headers from limits and receipts."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.types import Scope

from router.http.wire import RawHeaders
from router.request import LimitState, Receipt

SCHEMA_VERSION = "1"

_BASE: RawHeaders = [
    (b"x-acr-schema-version", SCHEMA_VERSION.encode()),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
]
_JSON: RawHeaders = [(b"content-type", b"application/json"), *_BASE]
# x-accel-buffering: proxies that honour it must not hold back chunks.
_SSE: RawHeaders = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"x-accel-buffering", b"no"),
    *_BASE,
]
_SAFE_ID = re.compile(rb"[A-Za-z0-9._:/+=@~-]{1,128}")
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
_NO_TRACE = b"0" * 32
_ONCE = frozenset({b"authorization", b"idempotency-key"})


@dataclass(frozen=True, slots=True)
class RequestHead:
    """The headers that mean something here. Byte strings are as sent, None where absent.

    `authorization` and `idempotency_key` are empty where the header came more than once: nobody may guess
    which one counts. Several lines of cache-control are one list.
    """

    request_id: str
    total_bytes: int
    authorization: bytes | None = None
    content_type: bytes | None = None
    content_length: bytes | None = None
    content_encoding: bytes | None = None
    idempotency_key: bytes | None = None
    cache_control: bytes | None = None
    trace_id: str | None = None


def read_head(scope: Scope) -> RequestHead:
    """Never raises: a head without meaning is refused later, with its request id."""
    total = 0
    found: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        total += len(name) + len(value)
        if name in found:
            if name in _ONCE:
                value = b""
            elif name == b"cache-control":
                value = found[name] + b"," + value
        found[name] = value
    get = found.get
    given = get(b"x-request-id")
    request_id = given.decode("ascii") if given and _SAFE_ID.fullmatch(given) else new_request_id()
    return RequestHead(
        request_id,
        total,
        get(b"authorization"),
        get(b"content-type"),
        get(b"content-length"),
        get(b"content-encoding"),
        get(b"idempotency-key"),
        get(b"cache-control"),
        _trace_id(get(b"traceparent")),
    )


def new_request_id() -> str:
    return "req_" + os.urandom(16).hex()


def _trace_id(value: bytes | None) -> str | None:
    """The trace id of a W3C traceparent; a malformed one is ignored, as the standard says."""
    match = _TRACEPARENT.fullmatch(value) if value is not None else None
    if match is None or value is None or value.startswith(b"ff") or match[1] == _NO_TRACE:
        return None
    return match[1].decode("ascii")


def json_headers(request_id: str) -> RawHeaders:
    return [*_JSON, (b"x-request-id", request_id.encode("ascii"))]


def sse_headers(request_id: str) -> RawHeaders:
    return [*_SSE, (b"x-request-id", request_id.encode("ascii"))]


def named_headers(values: Mapping[str, str]) -> RawHeaders:
    return [(safe_value(name.lower()), safe_value(value)) for name, value in values.items()]


def safe_value(value: str) -> bytes:
    """ASCII without control characters, whatever came in: a header must never split."""
    if not (value.isascii() and value.isprintable()):
        value = "".join(c if c.isascii() and c.isprintable() else "?" for c in value)
    return value.encode("ascii")


def limit_headers(limits: LimitState) -> RawHeaders:
    """x-ratelimit-*: only of the limits that the tenant has. Resets are durations such as `6m0s`."""
    out: RawHeaders = []
    if limits.limit_requests is not None:
        out.append((b"x-ratelimit-limit-requests", b"%d" % limits.limit_requests))
    if limits.remaining_requests is not None:
        out.append((b"x-ratelimit-remaining-requests", b"%d" % limits.remaining_requests))
    if limits.reset_requests_s is not None:
        out.append((b"x-ratelimit-reset-requests", _duration(limits.reset_requests_s)))
    if limits.limit_tokens is not None:
        out.append((b"x-ratelimit-limit-tokens", b"%d" % limits.limit_tokens))
    if limits.remaining_tokens is not None:
        out.append((b"x-ratelimit-remaining-tokens", b"%d" % limits.remaining_tokens))
    if limits.reset_tokens_s is not None:
        out.append((b"x-ratelimit-reset-tokens", _duration(limits.reset_tokens_s)))
    return out


def _duration(seconds: float) -> bytes:
    """As OpenAI writes them (Go's durations): 20ms, 1s, 8.64s, 6m0s, 1h0m2.5s; rounded up to milliseconds."""
    ms = math.ceil(max(seconds, 0.0) * 1000)
    if 0 < ms < 1000:
        return b"%dms" % ms
    minutes, ms = divmod(ms, 60_000)
    hours, minutes = divmod(minutes, 60)
    whole, fraction = divmod(ms, 1000)
    said = f"{whole}.{fraction:03d}".rstrip("0").rstrip(".") + "s"
    if hours:
        said = f"{hours}h{minutes}m{said}"
    elif minutes:
        said = f"{minutes}m{said}"
    return said.encode("ascii")


def receipt_headers(receipt: Receipt) -> RawHeaders:
    """x-acr-*: the receipt's headlines; confidence and budget only where they are known."""
    out: RawHeaders = [
        (b"x-acr-tier", safe_value(receipt.tier)),
        (b"x-acr-strategy", safe_value(receipt.strategy)),
        (b"x-acr-samples", b"%d" % receipt.samples_used),
        (b"x-acr-stop-reason", safe_value(receipt.stop_reason)),
        (b"x-acr-cache", safe_value(receipt.cache)),
        (b"x-acr-degraded", b"true" if receipt.degraded else b"false"),
        (b"x-acr-policy", safe_value(receipt.policy_version)),
        (b"x-acr-decision-id", safe_value(receipt.decision_id)),
        (b"x-acr-overhead-ms", b"%.3f" % receipt.overhead_ms),
    ]
    if receipt.confidence is not None:
        out.append((b"x-acr-confidence", b"%.4f" % receipt.confidence))
    if receipt.budget_remaining is not None:
        out.append((b"x-acr-budget-remaining", b"%d" % receipt.budget_remaining))
    return out
