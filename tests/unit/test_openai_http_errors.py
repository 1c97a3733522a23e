"""What OpenAIHTTPEngine makes of servers that fail, lie or stop in the middle; no socket is opened."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from backends.engines.base import Chunk, Completion, Generation, Sampling
from backends.engines.sse import MAX_EVENT_BYTES
from backends.errors import ContextOverflow, EngineProtocolError, EngineUnavailable
from tests.openai_replies import GOOD, MESSAGES, TEXT, Handler, connect, delta, run, usage


def sse(events: list[Any], done: bool = True) -> bytes:
    lines = "".join(f"data: {json.dumps(event, ensure_ascii=False)}\n\n" for event in events)
    return (lines + ("data: [DONE]\n\n" if done else "")).encode()


def streams(events: list[Any], done: bool = True) -> Handler:
    return lambda _: httpx.Response(
        200, content=sse(events, done), headers={"content-type": "text/event-stream"}
    )


async def answer(handler: Handler, **config: Any) -> Completion:
    return (await run(await connect(handler, **config)))[1]


async def test_a_good_reply_is_a_completion() -> None:
    engine = await connect(streams(GOOD))
    chunks, done = await run(engine)
    assert chunks == [Chunk("Two", 1), Chunk(" plus", 2)]
    assert done == Completion("Two plus", "stop", prompt_tokens=20, completion_tokens=3, cached_tokens=16)


@pytest.mark.parametrize(
    "events",
    [
        [],
        [delta("Two")],
        [delta("Two"), usage()],
        [delta("Two"), delta(None, "stop")],
        [delta("Two", "stop"), {"choices": [], "usage": None}],
        [delta("Two", "stop"), usage(prompt_tokens=0)],
        [delta("Two", "stop"), usage(prompt_tokens=-1)],
        [delta("Two", "stop"), usage(prompt_tokens="20")],
        [delta("Two", "stop"), usage(completion_tokens=0)],
        [delta("Two", "stop"), usage(completion_tokens=None)],
        [delta("Two", "content_filter"), usage()],
        [delta("Two", "tool_calls"), usage()],
        [{"choices": "none"}],
        [{"choices": [{"delta": "Two"}]}],
        [{"choices": [{"delta": {"content": 5}}]}],
        [{"choices": [7]}],
        [delta("Two", logprobs={"content": [{}]})],
        [delta("Two", logprobs={"content": 4})],
        [{"usage": {"completion_tokens": "many"}}],
        [["a", "list"]],
        ["text"],
        [None],
    ],
)
async def test_what_is_no_completion_is_a_protocol_error(events: list[Any]) -> None:
    with pytest.raises(EngineProtocolError):
        await answer(streams(events))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"<html>welcome</html>",
        b"data: {not json}\n\n",
        b'data: {"a": \n\n',
        b"data: \xff\xfe\n\n",
    ],
)
async def test_bodies_that_are_no_stream_are_a_protocol_error(body: bytes) -> None:
    with pytest.raises(EngineProtocolError):
        await answer(lambda _: httpx.Response(200, content=body))


async def test_a_line_without_end_is_given_up() -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(2 * MAX_EVENT_BYTES // 65536):
            yield b"x" * 65536
        raise AssertionError("read to the end")

    with pytest.raises(EngineProtocolError, match="bytes"):
        await answer(lambda _: httpx.Response(200, content=endless()))


async def test_text_that_came_before_the_failure_was_seen() -> None:
    engine = await connect(streams([delta("Two"), delta(" plus")], done=False))
    items = engine.generate(Generation(MESSAGES, Sampling(16)))
    assert await anext(items) == Chunk("Two", 1)
    assert await anext(items) == Chunk(" plus", 2)
    with pytest.raises(EngineProtocolError, match="cut off"):
        await anext(items)


async def test_keepalives_other_fields_and_split_bytes_are_read() -> None:
    events = [delta("día 日"), delta("\u2028 x \x85"), delta("", "length"), usage()]
    body = b": ping\n\nevent: message\nid: 4\n" + sse(events).replace(b"\n", b"\r\n")

    async def drip() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 3):
            yield body[at : at + 3]

    done = await answer(lambda _: httpx.Response(200, content=drip()))
    assert (done.text, done.finish) == ("día 日\u2028 x \x85", "length")


async def test_a_stream_may_end_without_done_or_a_last_newline() -> None:
    body = sse(GOOD, done=False).rstrip(b"\n")
    assert (await answer(lambda _: httpx.Response(200, content=body))).text == "Two plus"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (500, {"message": "boom"}),
        (502, {}),
        (503, {"type": "unavailable_error"}),
        (429, {"code": "rate_limit_exceeded"}),
        (408, {}),
        (401, {"code": "invalid_api_key"}),
        (403, {}),
        (404, {"code": "model_not_found"}),
    ],
)
async def test_failing_or_misconfigured_is_unavailable(status: int, error: dict[str, str]) -> None:
    with pytest.raises(EngineUnavailable, match=str(status)):
        await answer(lambda _: httpx.Response(status, json={"error": error}))


@pytest.mark.parametrize("status", [400, 405, 422, 301, 302])
async def test_other_statuses_are_a_protocol_error(status: int) -> None:
    with pytest.raises(EngineProtocolError, match=str(status)):
        await answer(lambda _: httpx.Response(status, json={"error": {"message": "no"}}))


@pytest.mark.parametrize("body", [b"<html>bad gateway</html>", b"", b"[1]", b'{"error": "text"}', b"null"])
async def test_an_error_page_of_a_proxy_is_understood_by_its_status(body: bytes) -> None:
    with pytest.raises(EngineUnavailable):
        await answer(lambda _: httpx.Response(502, content=body))


OVERFLOWS = {
    "openai": {
        "message": "This model's maximum context length is 4096 tokens. However, your messages "
        "resulted in 5000 tokens.",
        "type": "invalid_request_error",
        "code": "context_length_exceeded",
    },
    "vllm": {
        "message": "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens "
        "(4990 in the messages, 10 in the completion).",
        "type": "BadRequestError",
        "code": 400,
    },
    "vllm 0.32": {
        "message": "This model's maximum context length is 4096 tokens. However, your prompt contains at "
        "least 5000 input tokens, which exceeds this limit even without any output tokens. Please reduce "
        "the length of the input prompt. (parameter=input_tokens, value=5000)",
        "type": "BadRequestError",
        "param": "input_tokens",
        "code": 400,
    },
    "llamacpp": {
        "message": "request (5000 tokens) exceeds the available context size (4096 tokens)",
        "type": "exceed_context_size_error",
        "n_prompt_tokens": 5000,
        "n_ctx": 4096,
    },
}


@pytest.mark.parametrize("server", OVERFLOWS)
async def test_a_prompt_too_long_is_a_context_overflow(server: str) -> None:
    with pytest.raises(ContextOverflow) as caught:
        await answer(lambda _: httpx.Response(400, json={"error": OVERFLOWS[server]}))
    assert (caught.value.prompt_tokens, caught.value.context_tokens) == (5000, 4096)


async def test_a_prompt_that_leaves_vllm_no_room_is_a_context_overflow() -> None:
    said = "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)"
    with pytest.raises(ContextOverflow) as caught:
        await answer(lambda _: httpx.Response(400, json={"error": {"message": said, "code": 400}}))
    assert caught.value.prompt_tokens == caught.value.context_tokens == 4096


async def test_vllm_errors_without_an_envelope_are_read_too() -> None:
    with pytest.raises(ContextOverflow):
        await answer(lambda _: httpx.Response(400, json={"object": "error", **OVERFLOWS["vllm"]}))


async def test_an_overflow_without_numbers_reports_the_bound() -> None:
    with pytest.raises(ContextOverflow) as caught:
        await answer(lambda _: httpx.Response(400, json={"error": {"code": "context_length_exceeded"}}))
    assert caught.value.prompt_tokens >= len(TEXT)


async def test_an_error_inside_the_stream_is_unavailable() -> None:
    events = [delta("Two"), {"error": {"message": TEXT, "type": "server_error", "code": 500}}]
    with pytest.raises(EngineUnavailable, match="server_error") as caught:
        await answer(streams(events))
    assert TEXT not in str(caught.value)


async def test_no_error_repeats_the_callers_words() -> None:
    for status in (400, 404, 422, 429, 500):
        error = {"message": f"cannot parse {TEXT}", "type": f"bad {TEXT}", "code": TEXT}
        with pytest.raises((EngineUnavailable, EngineProtocolError)) as caught:
            await answer(lambda _, s=status, e=error: httpx.Response(s, json={"error": e}))
        assert TEXT not in str(caught.value)


@pytest.mark.parametrize(
    "failure",
    [
        httpx.ConnectError("refused"),
        httpx.ConnectTimeout("slow"),
        httpx.ReadTimeout("stalled"),
        httpx.ReadError("reset"),
        httpx.RemoteProtocolError("peer closed connection without sending complete message body"),
        httpx.PoolTimeout("busy"),
    ],
)
async def test_transport_errors_are_unavailable(failure: httpx.TransportError) -> None:
    def fail(_: httpx.Request) -> httpx.Response:
        raise failure

    engine = await connect(fail, dialect="vllm")
    assert not await engine.healthy()
    with pytest.raises(EngineUnavailable):
        await run(engine)
    with pytest.raises(EngineUnavailable):
        await engine.count_prompt_tokens(MESSAGES)


async def test_a_connection_that_breaks_in_the_middle_is_unavailable() -> None:
    async def breaks() -> AsyncIterator[bytes]:
        yield sse([delta("Two")], done=False)
        raise httpx.ReadError("reset")

    with pytest.raises(EngineUnavailable):
        await answer(lambda _: httpx.Response(200, content=breaks()))


class Endless(httpx.AsyncByteStream):
    """A body that never ends and notes that it was closed."""

    def __init__(self) -> None:
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            yield sse([delta("Two")], done=False)

    async def aclose(self) -> None:
        self.closed = True


async def test_closing_the_iterator_closes_the_response() -> None:
    body = Endless()
    engine = await connect(lambda _: httpx.Response(200, stream=body))
    items = engine.generate(Generation(MESSAGES, Sampling(16)))
    await anext(items)
    assert not body.closed
    await items.aclose()
    assert body.closed


async def test_cancelling_is_not_an_engine_error() -> None:
    async def hangs(_: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    engine = await connect(hangs)  # type: ignore[arg-type]
    task = asyncio.create_task(run(engine))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
