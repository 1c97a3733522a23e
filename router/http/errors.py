"""The one place where errors become HTTP.

HttpRefusal (a RouterError)   refused by HTTP itself: 404 not_found, 405 method_not_allowed,
                              408 request_timeout, 413 request_too_large, 415 unsupported_media_type,
                              431 headers_too_large
ClientLeft                    the client hung up; nobody is there to be answered
"""

from __future__ import annotations

import logging
import math
import traceback
from typing import Any

from backends.errors import ContextOverflow, InvalidVerifier
from router.errors import ContextTooLong, InvalidRequest, RouterError
from router.http.headers import json_headers, limit_headers, safe_value
from router.http.wire import Wire, to_json
from router.request import LimitState

log = logging.getLogger("router.http")

# A retryable refusal that names no time: clients back off at least this long.
DEFAULT_RETRY_AFTER_S = 1.0


class HttpRefusal(RouterError):
    """The request is refused before anything in it is read for its meaning."""

    type = "invalid_request_error"

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message, code=code)
        self.status = status


class ClientLeft(Exception):
    """The client closed the connection before its answer was ready."""


def not_found() -> HttpRefusal:
    return HttpRefusal(404, "not_found", "There is nothing at this path; GET /docs lists what there is.")


def method_not_allowed() -> HttpRefusal:
    return HttpRefusal(
        405, "method_not_allowed", "This path does not take that method; see the Allow header."
    )


def as_router_error(error: Exception) -> RouterError | None:
    """The caller's side of an error, None where the fault is ours."""
    if isinstance(error, RouterError):
        return error
    if isinstance(error, ContextOverflow):
        return ContextTooLong(f"Shorten the messages: {error}.", param="messages")
    if isinstance(error, InvalidVerifier):
        return InvalidRequest(str(error), param="compute.verify")
    return None


def error_body(error: Exception) -> dict[str, Any]:
    """The envelope. An unknown exception tells nothing about itself."""
    known = as_router_error(error)
    if known is None:
        message = "The service failed to answer. Send x-request-id to its operators."
        inner = {"message": message, "type": "server_error", "param": None, "code": "internal_error"}
    else:
        inner = {"message": known.message, "type": known.type, "param": known.param, "code": known.code}
    return {"error": inner}


def error_wire(error: Exception, request_id: str) -> Wire:
    """Status, headers and body; logs the exception if it is not one of ours."""
    known = as_router_error(error)
    headers = json_headers(request_id)
    if known is None:
        log_failure(error, request_id)
        headers.append((b"x-should-retry", b"false"))
        return Wire(500, headers, to_json(error_body(error)))
    headers.append((b"x-should-retry", b"true" if known.retryable else b"false"))
    wait_s = known.retry_after_s
    if wait_s is None and known.retryable:
        wait_s = DEFAULT_RETRY_AFTER_S
    if wait_s is not None and math.isfinite(wait_s):
        wait_ms = max(1, math.ceil(wait_s * 1000))
        headers.append((b"retry-after", b"%d" % math.ceil(wait_ms / 1000)))
        headers.append((b"retry-after-ms", b"%d" % wait_ms))
    if isinstance(known.limits, LimitState):
        headers.extend(limit_headers(known.limits))
    if known.policy_version is not None:
        headers.append((b"x-acr-policy", safe_value(known.policy_version)))
    if known.decision_id is not None:
        headers.append((b"x-acr-decision-id", safe_value(known.decision_id)))
    if known.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return Wire(known.status, headers, to_json(error_body(known)))


def log_failure(error: BaseException, request_id: str) -> None:
    """The request id, the type and the place. Not the message: it may quote a prompt."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    where = " < ".join(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in reversed(frames))
    log.error("request %s failed with %s at %s", request_id, type(error).__name__, where or "unknown")
