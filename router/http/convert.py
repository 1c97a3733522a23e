"""The validated body, together with the headers, as the request that the service gets."""

from __future__ import annotations

from backends.engines.base import Message
from router.http.cache_control import cache_control
from router.http.headers import RequestHead
from router.http.schemas import ChatMessage, ChatRequest, Compute
from router.request import RouteRequest

_NO_COMPUTE = Compute()


def route_request(chat: ChatRequest, head: RequestHead) -> RouteRequest:
    """Rebuilt field by field: nothing of the body goes on that is not named here.

    Raises InvalidRequest for a Cache-Control that cannot be understood.
    """
    compute = chat.compute or _NO_COMPUTE
    caching = cache_control(head.cache_control)
    stop = chat.stop
    return RouteRequest(
        request_id=head.request_id,
        model=chat.model,
        messages=tuple(_message(message) for message in chat.messages),
        max_completion_tokens=(
            chat.max_tokens if chat.max_completion_tokens is None else chat.max_completion_tokens
        ),
        temperature=_float(chat.temperature),
        top_p=_float(chat.top_p),
        seed=chat.seed,
        stop=() if stop is None else (stop,) if isinstance(stop, str) else tuple(stop),
        n=1 if chat.n is None else chat.n,
        effort=chat.reasoning_effort,
        strategy=compute.strategy,
        max_samples=compute.max_samples,
        max_total_tokens=compute.max_total_tokens,
        deadline_s=None if compute.deadline_ms is None else compute.deadline_ms / 1000,
        min_quality=_float(compute.min_quality),
        allow_degrade=compute.allow_degrade,
        verify=None if compute.verify is None else compute.verify.spec(),
        progress=compute.progress,
        cache_mode=caching.mode,
        max_age_s=caching.max_age_s,
        trace_id=head.trace_id,
    )


def _message(message: ChatMessage) -> Message:
    role = "system" if message.role == "developer" else message.role
    return Message(role, message.text())


def _float(value: float | None) -> float | None:
    # 1 and 1.0 mean the same and must not make two cache keys.
    return None if value is None else float(value)
