"""Server-sent events from an engine's HTTP API, and its transport errors in our own words."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import httpx

from backends.errors import EngineProtocolError, EngineUnavailable

MAX_EVENT_BYTES = 4 * 1024 * 1024


@contextmanager
def transport_errors(engine: str) -> Iterator[None]:
    """Raise EngineUnavailable where httpx reports a failed connection, a cut stream or a timeout."""
    try:
        yield
    except httpx.TimeoutException as error:
        raise EngineUnavailable(f"{engine} did not answer in time ({type(error).__name__})") from error
    except (httpx.TransportError, httpx.StreamError) as error:
        raise EngineUnavailable(f"{engine} cannot be reached: {type(error).__name__}") from error
    except httpx.DecodingError as error:
        raise EngineProtocolError(f"{engine} sent a body that cannot be decoded") from error


def parse_object(data: bytes | str, engine: str) -> dict[str, Any]:
    """One JSON object; raises EngineProtocolError for anything else (the text itself is not repeated)."""
    try:
        value = json.loads(data)
    except ValueError as error:
        raise EngineProtocolError(f"{engine} sent something that is not JSON") from error
    if not isinstance(value, dict):
        raise EngineProtocolError(f"{engine} sent a JSON {type(value).__name__} where an object belongs")
    return value


async def _lines(chunks: AsyncIterator[bytes], engine: str) -> AsyncGenerator[bytes, None]:
    # Not httpx's aiter_lines: it splits at every Unicode line separator, which JSON text may hold raw.
    rest = b""
    async for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.removesuffix(b"\r")
        if len(rest) > MAX_EVENT_BYTES:
            raise EngineProtocolError(f"{engine} sent a line of more than {MAX_EVENT_BYTES} bytes")
    if rest:
        yield rest.removesuffix(b"\r")


async def read_events(chunks: AsyncIterator[bytes], engine: str) -> AsyncGenerator[dict[str, Any], None]:
    """The JSON objects of a `text/event-stream` body, up to its end or `[DONE]`.

    Comments (keep-alive pings) and fields other than `data` and `error` are skipped. Raises
    EngineProtocolError for data that is no JSON object.
    """
    data: list[bytes] = []
    async with aclosing(_lines(chunks, engine)) as lines:
        async for line in lines:
            name, _, value = line.partition(b":")
            if line and name in (b"data", b"error"):
                data.append(value.removeprefix(b" "))
            elif not line and data:
                text, data = b"\n".join(data), []
                if text.strip() == b"[DONE]":
                    return
                yield parse_object(text, engine)
    if data and b"\n".join(data).strip() != b"[DONE]":
        yield parse_object(b"\n".join(data), engine)
