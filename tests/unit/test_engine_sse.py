"""Reading server-sent events: framing is by bytes, whatever the text holds."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.engines.sse import MAX_EVENT_BYTES, parse_object, read_events, transport_errors
from backends.errors import EngineProtocolError, EngineUnavailable


async def pieces(body: bytes, size: int) -> AsyncIterator[bytes]:
    for at in range(0, len(body), size):
        yield body[at : at + size]


async def read(body: bytes, size: int = 7) -> list[dict[str, object]]:
    return [event async for event in read_events(pieces(body, size), "it")]


@given(st.lists(st.text(), max_size=5), st.integers(1, 40), st.sampled_from([b"\n", b"\r\n"]))
async def test_any_text_survives_any_fragmentation(texts: list[str], size: int, newline: bytes) -> None:
    events = [{"text": text} for text in texts]
    lines = [b"data: " + json.dumps(event, ensure_ascii=False).encode() for event in events]
    body = b"".join(line + newline + newline for line in lines)
    assert await read(body, size) == events


@pytest.mark.parametrize(
    "body",
    [
        b'data: {"a": 1}\n\n',
        b'data:{"a": 1}\n\n',
        b'data: {"a": 1}',
        b': ping\n\nevent: x\nid: 3\nretry: 5\ndata: {"a": 1}\n\n\n\n',
        b'data: {"a":\ndata: 1}\n\n',
        b'data: {"a": 1}\n\ndata: [DONE]\n\ndata: {"a": 2}\n\n',
        b'data: {"a": 1}\n\ndata: [DONE]',
        b'error: {"a": 1}\n\n',
    ],
)
async def test_forms_of_one_event(body: bytes) -> None:
    for size in (1, 1000):
        assert await read(body, size) == [{"a": 1}]


@pytest.mark.parametrize("body", [b"", b"\n\n\n", b": ping\n\n", b"<html>\n</html>\n", b"data: [DONE]\n\n"])
async def test_bodies_without_events(body: bytes) -> None:
    assert await read(body) == []


@pytest.mark.parametrize("data", [b"{", b"[1]", b'"text"', b"null", b"1", b"\xff", b""])
async def test_data_that_is_no_object(data: bytes) -> None:
    with pytest.raises(EngineProtocolError, match="it sent"):
        parse_object(data, "it")


async def test_a_line_that_never_ends_is_given_up() -> None:
    with pytest.raises(EngineProtocolError, match=str(MAX_EVENT_BYTES)):
        await read(b"data: " + b"x" * (MAX_EVENT_BYTES + 10), 65536)


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (httpx.ConnectTimeout("x"), EngineUnavailable),
        (httpx.ReadError("x"), EngineUnavailable),
        (httpx.StreamClosed(), EngineUnavailable),
        (httpx.DecodingError("x"), EngineProtocolError),
    ],
)
def test_transport_errors_are_translated(raised: Exception, expected: type[Exception]) -> None:
    with pytest.raises(expected, match="it ") as caught, transport_errors("it"):
        raise raised
    assert caught.value.__cause__ is raised


def test_other_errors_pass() -> None:
    with pytest.raises(KeyError), transport_errors("it"):
        raise KeyError("x")
