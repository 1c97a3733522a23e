"""The application behind a real server and real sockets, which the in-process transport cannot stand for."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import uvicorn

from backends.task import TextDelta
from router.http.app import create_app
from router.http.settings import HttpSettings
from tests.fakes_http import DELTAS, KEY, REPLY, ScriptedService

BODY: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": "2 + 2?"}]}
SETTINGS = HttpSettings(first_event_s=0.02, heartbeat_s=0.02, coalesce_s=0.01, body_timeout_s=0.5)


@pytest.fixture
def service() -> ScriptedService:
    return ScriptedService()


@pytest.fixture
async def port(service: ScriptedService) -> AsyncIterator[int]:
    app = create_app(service, settings=SETTINGS)
    config = uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    yield listener.getsockname()[1]
    server.should_exit = True
    await task


class Connection:
    """One raw HTTP/1.1 connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> Connection:
        while True:
            try:
                return cls(*await asyncio.open_connection("127.0.0.1", port))
            except ConnectionRefusedError:
                await asyncio.sleep(0.01)

    async def send(self, body: bytes, *, length: int | None = None, **headers: str) -> None:
        lines = {
            "host": "test",
            "authorization": f"Bearer {KEY}",
            "content-type": "application/json",
            "content-length": str(len(body) if length is None else length),
        } | {name.replace("_", "-"): value for name, value in headers.items()}
        head = "POST /v1/chat/completions HTTP/1.1\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self.writer.write(head.encode() + b"\r\n" + body)
        await self.writer.drain()

    async def status(self) -> int:
        async with asyncio.timeout(5):
            return int((await self.reader.readline()).split()[1])

    async def until(self, text: bytes) -> bytes:
        async with asyncio.timeout(5):
            return await self.reader.readuntil(text)

    def close(self) -> None:
        self.writer.transport.abort()


def body(**fields: Any) -> bytes:
    return json.dumps(BODY | fields).encode()


async def test_openais_client_with_and_without_streaming(port: int) -> None:
    (await Connection.open(port)).close()
    async with openai.AsyncOpenAI(api_key=KEY, base_url=f"http://127.0.0.1:{port}/v1", max_retries=0) as sdk:
        messages: list[Any] = BODY["messages"]
        reply = await sdk.chat.completions.create(model="auto", messages=messages)
        assert reply.choices[0].message.content == "2 + 2 is 4"
        stream = await sdk.chat.completions.create(model="auto", messages=messages, stream=True)
        texts = [chunk.choices[0].delta.content or "" async for chunk in stream]
        assert "".join(texts) == "2 + 2 is 4"


async def test_chunks_leave_as_they_come(port: int, service: ScriptedService) -> None:
    gate = asyncio.Event()
    service.steps = (TextDelta("early"), gate.wait, TextDelta(" late"), REPLY)
    connection = await Connection.open(port)
    await connection.send(body(stream=True))
    assert await connection.status() == 200
    await connection.until(b"early")
    await connection.until(b": keep-alive\n\n")
    gate.set()
    assert b" late" in await connection.until(b"[DONE]")
    connection.close()


async def test_the_head_leaves_before_the_first_event(port: int, service: ScriptedService) -> None:
    service.steps = (asyncio.Event().wait,)
    connection = await Connection.open(port)
    await connection.send(body(stream=True))
    assert await connection.status() == 200
    await connection.until(b": keep-alive\n\n")
    connection.close()
    async with asyncio.timeout(5):
        await service.streams[0].closed.wait()


async def test_a_client_that_hangs_up_ends_its_stream(port: int, service: ScriptedService) -> None:
    async def settle() -> None:
        await asyncio.sleep(0.01)

    service.steps = (TextDelta("a"), asyncio.Event().wait)
    service.clean_up = settle
    connection = await Connection.open(port)
    await connection.send(body(stream=True))
    await connection.until(b'"content":"a"')
    connection.close()
    async with asyncio.timeout(5):
        await service.streams[0].closed.wait()
    assert service.streams[0].settled


async def test_a_client_that_hangs_up_cancels_its_request(port: int, service: ScriptedService) -> None:
    cancelled = asyncio.Event()

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    service.before = wait
    connection = await Connection.open(port)
    await connection.send(body())
    await service.called.wait()
    connection.close()
    async with asyncio.timeout(5):
        await cancelled.wait()


async def test_a_client_that_reads_slowly_holds_nobody_up(port: int, service: ScriptedService) -> None:
    # Far more than the buffers between, so the sender has to wait for this reader.
    service.steps = (*(TextDelta("x" * 65536) for _ in range(256)), REPLY)
    slow = await Connection.open(port)
    await slow.send(body(stream=True))
    assert await slow.status() == 200
    async with asyncio.timeout(5):
        await service.streams[0].closed.wait()
    service.steps = DELTAS
    quick = await Connection.open(port)
    await quick.send(body(stream=True))
    await quick.until(b"[DONE]")
    slow.close()
    quick.close()


async def test_a_body_that_does_not_come_is_given_up(port: int, service: ScriptedService) -> None:
    connection = await Connection.open(port)
    await connection.send(b'{"model"', length=1000)
    assert await connection.status() == 408
    assert b"request_timeout" in await connection.until(b"}}")
    assert service.seen == []
    connection.close()


async def test_a_large_body_is_refused_by_its_length_alone(port: int, service: ScriptedService) -> None:
    connection = await Connection.open(port)
    await connection.send(b"", length=2 << 20)
    assert await connection.status() == 413
    connection.close()


async def test_a_large_chunked_body_is_refused_on_the_way(port: int) -> None:
    connection = await Connection.open(port)
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n"
        f"authorization: Bearer {KEY}\r\ncontent-type: application/json\r\n\r\n"
    )
    connection.writer.write(head.encode())
    for _ in range(17):
        connection.writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
    assert await connection.status() == 413
    connection.close()


async def test_a_refusal_leaves_the_connection_usable(port: int) -> None:
    connection = await Connection.open(port)
    await connection.send(body(n=0))
    assert await connection.status() == 400
    await connection.until(b"}}")
    await connection.send(body())
    assert await connection.status() == 200
    connection.close()
