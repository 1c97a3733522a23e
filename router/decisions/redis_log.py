"""The decision log in Redis or Valkey: two streams with a cap, in one slot of a cluster."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from redis.exceptions import RedisError

from policies.batches import Batches
from policies.breaker import said
from router.decisions.errors import LogUnavailable
from router.decisions.files import to_line
from router.decisions.log import PAGE, Feedback, Logged, Position, decoded
from router.decisions.record import Decision

PREFIX = "acr-decisions:{log}:"
_DECISION, _FEEDBACK = b"decision", b"feedback"  # the one field of an entry of either stream


class RedisDecisionLog:
    """`batches` are those of a client that returns bytes (`decode_responses=False`).

    Keys: `entries` and `feedback`, behind `prefix`. The caps are approximate (`MAXLEN ~`): the server drops
    whole blocks of old entries, so a stream may hold about a hundred more.
    """

    def __init__(
        self,
        batches: Batches,
        *,
        max_entries: int = 10_000,
        max_feedback: int = 10_000,
        prefix: str = PREFIX,
    ) -> None:
        self._batches = batches
        self._max_entries = max_entries
        self._max_feedback = max_feedback
        self._entries = f"{prefix}entries"
        self._feedback = f"{prefix}feedback"

    async def append(self, decisions: Sequence[Decision]) -> None:
        """One command a decision, in as few round trips as it takes."""
        values = [to_line(decision).encode("utf-8", "replace") for decision in decisions]
        asked = [self._add(self._entries, self._max_entries, _DECISION, value) for value in values]
        # All are waited for: one that was left behind would have nobody to tell its error.
        for outcome in await asyncio.gather(*asked, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    async def append_feedback(self, feedback: Feedback) -> None:
        text = json.dumps([feedback.decision_id, feedback.tenant, feedback.score])
        await self._add(self._feedback, self._max_feedback, _FEEDBACK, text.encode())

    async def after(self, position: Position, count: int = PAGE) -> list[Logged]:
        found = await self._ask("XRANGE", self._entries, f"({position}", "+", "COUNT", count)
        return [_logged(each) for each in found]

    async def last(self, count: int) -> list[Logged]:
        found = await self._ask("XREVRANGE", self._entries, "+", "-", "COUNT", count)
        return [_logged(each) for each in reversed(found)]

    async def length(self) -> int:
        return int(await self._ask("XLEN", self._entries))

    async def feedback_after(
        self, position: Position, count: int = PAGE
    ) -> list[tuple[Position, Feedback | None]]:
        found = await self._ask("XRANGE", self._feedback, f"({position}", "+", "COUNT", count)
        return [(_position(each), _feedback(_value(each, _FEEDBACK))) for each in found]

    async def _add(self, key: str, cap: int, field: bytes, value: bytes) -> None:
        await self._ask("XADD", key, "MAXLEN", "~", cap, "*", field, value)

    async def _ask(self, *command: str | bytes | int) -> Any:
        try:
            return await self._batches.execute(*command)
        except (RedisError, OSError) as error:
            raise LogUnavailable(
                f"the store of the decision log did not answer ({said(error)}); check that it is up"
            ) from error


def _logged(entry: Any) -> Logged:
    value = _value(entry, _DECISION)
    return Logged(_position(entry), None if value is None else decoded(value))


def _position(entry: Any) -> Position:
    return bytes(entry[0]).decode("ascii")


def _value(entry: Any, field: bytes) -> bytes | None:
    """Of [position, [field, value, ...]]; None for an entry that somebody else wrote."""
    pairs = entry[1] or []
    return dict(zip(pairs[::2], pairs[1::2], strict=False)).get(field)


def _feedback(value: bytes | None) -> Feedback | None:
    try:
        decision_id, tenant, score = json.loads(value or b"")
    except (ValueError, TypeError):
        return None
    known = isinstance(decision_id, str) and isinstance(tenant, str) and isinstance(score, int | float)
    return Feedback(decision_id, tenant, float(score)) if known and 0.0 <= score <= 1.0 else None
