"""A response as it is sent, kept so that it can be sent again, byte for byte."""

from __future__ import annotations

import asyncio
import json
import zlib
from dataclasses import dataclass

from starlette.types import Message, Send

from router.http.wire import RawHeaders

# What tells of one request and not of the reply.
_OF_THE_REQUEST = (b"x-request-id", b"x-ratelimit-")
MAX_BODY_BYTES = 64 << 20


class Recorder:
    """Takes a response (`send`), and hands it on to whoever is there (`messages`), its last message at
    `end()` and not before. None in the queue means that nothing follows.
    """

    def __init__(self) -> None:
        self.messages: asyncio.Queue[Message | None] = asyncio.Queue()
        self._status = 0
        self._headers: RawHeaders = []
        self._body: list[bytes] = []
        self._last: Message | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status, self._headers = message["status"], list(message["headers"])
        else:
            self._body.append(message.get("body", b""))
            if not message.get("more_body", False):
                self._last = message
                return
        self.messages.put_nowait(message)

    def end(self) -> None:
        if self._last is not None:
            self.messages.put_nowait(self._last)
        self.messages.put_nowait(None)

    def recorded(self) -> Recorded:
        kept = [(name, value) for name, value in self._headers if not name.startswith(_OF_THE_REQUEST)]
        return Recorded(self._status, kept, b"".join(self._body))


@dataclass(frozen=True, slots=True)
class Recorded:
    """A whole response. Headers that told of one request are not in it."""

    status: int
    headers: RawHeaders
    body: bytes

    def to_bytes(self) -> bytes:
        """Compressed: streams repeat themselves a lot."""
        headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in self.headers]
        return zlib.compress(json.dumps([self.status, headers]).encode("ascii") + b"\n" + self.body, 3)

    @classmethod
    def from_bytes(cls, data: bytes) -> Recorded:
        """Raises ValueError for anything but the bytes of `to_bytes`."""
        unpack = zlib.decompressobj()
        try:
            plain = unpack.decompress(data, MAX_BODY_BYTES)
        except zlib.error as error:
            raise ValueError(str(error)) from error
        if not unpack.eof:
            raise ValueError("it is cut, or too large")
        head, _, body = plain.partition(b"\n")
        status, headers = json.loads(head)
        return cls(
            status, [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers], body
        )

    async def send(self, send: Send, request_id: str) -> None:
        """The same response to another request."""
        own: RawHeaders = [(b"x-request-id", request_id.encode("ascii")), (b"idempotent-replayed", b"true")]
        await send({"type": "http.response.start", "status": self.status, "headers": [*self.headers, *own]})
        await send({"type": "http.response.body", "body": self.body})
