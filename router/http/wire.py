"""A finished HTTP response as bytes, and the JSON that goes into it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from starlette.types import Receive, Scope, Send

RawHeaders = list[tuple[bytes, bytes]]

# Built once: `json.dumps` with separators builds an encoder for every call. ASCII output keeps a lone
# surrogate that a model may produce from failing the reply; NaN is refused here, `finite` removes it before.
_encode = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode


def to_json(value: Any) -> bytes:
    """Compact JSON. Raises ValueError on NaN and infinities: pass floats through `finite`."""
    return _encode(value).encode("ascii")


def finite(value: float | None) -> float | None:
    """The number, or None where JSON has no word for it."""
    return value if value is not None and math.isfinite(value) else None


@dataclass(frozen=True, slots=True)
class Wire:
    """A complete response; it is an ASGI application, so Starlette can send it too."""

    status: int
    headers: RawHeaders
    body: bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.send(send)

    async def send(self, send: Send) -> None:
        length = (b"content-length", b"%d" % len(self.body))
        start = {"type": "http.response.start", "status": self.status, "headers": [*self.headers, length]}
        await send(start)
        await send({"type": "http.response.body", "body": self.body})
