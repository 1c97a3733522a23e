"""Replies as bytes, and a stored reply as the answer to another request."""

from __future__ import annotations

from dataclasses import replace

from pydantic import TypeAdapter, ValidationError

from backends.task import Spend
from router.request import Reply

_REPLY = TypeAdapter(Reply)


def encode_reply(reply: Reply) -> bytes:
    """JSON; `decode_reply` gives back an equal reply."""
    return _REPLY.dump_json(reply)


def decode_reply(data: bytes) -> Reply | None:
    """The reply as it was encoded, None if the bytes are not one (of this version)."""
    try:
        return _REPLY.validate_json(data)
    except ValidationError:
        return None


def as_hit(
    reply: Reply,
    *,
    charged_tokens: int,
    budget_remaining: int | None = None,
    similarity: float | None = None,
) -> Reply:
    """A stored reply as the answer to another request: the same one, or one of this `similarity`.

    Nothing was spent for this one: it costs `charged_tokens` (the policy's hit charge) and saved what the
    original cost. Whoever serves it still sets what is its own: id, created_s, limits, decision_id and
    overhead_ms.
    """
    old = reply.receipt
    receipt = replace(
        old,
        lease_id=None,
        samples_planned=0,
        samples_used=0,
        samples_cancelled=0,
        stop_reason="cache_hit",
        spend=Spend(),
        charged_tokens=charged_tokens,
        saved_tokens=old.spend.total,
        gpu_seconds=0.0,
        flops=0.0,
        cost_usd=0.0,
        cache="hit" if similarity is None else "semantic",
        similarity=similarity,
        budget_remaining=budget_remaining,
    )
    return replace(reply, receipt=receipt)
