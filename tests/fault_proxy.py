"""A TCP proxy before a real Redis or Valkey that spoils what comes back, as networks and dying servers do.

It reads the server's replies one by one, so that a fault hits exactly one of them, after the server has
executed the command. The same seed spoils the same replies, as far as connections come in the same order.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Literal

Mode = Literal["pass", "refuse", "freeze", "delay", "drop", "half", "garbage"]

CHUNK = 1 << 16
NONSENSE = (
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"\x00\xff\xfe\x01",
    b"$-7\r\n",
    b"+OK\r\n",
    b"$2\r\n\xff\xfe\r\n",
    b":7\r\n",
)


class FaultProxy:
    """One port that leads to the server at `server_port`; `set` changes what it does.

    pass     everything goes through
    refuse   nobody listens; connections that are open are reset
    freeze   nothing comes through, connections stay open
    delay    every reply comes `delay_s` late
    drop     `rate` of the replies are lost: the connection is reset, or (`mute_share`) says nothing more
    half     `rate` of the replies end in their middle, and with them the connection
    garbage  `rate` of the replies are something else
    """

    def __init__(self, server_port: int, seed: int = 0) -> None:
        self._server_port = server_port
        self._dice = random.Random(seed)
        self._server: asyncio.Server | None = None
        self._flowing = asyncio.Event()
        self._open: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self.mode: Mode = "pass"
        self.rate = 1.0
        self.mute_share = 0.5
        self.delay_s = 0.0
        self.port = 0
        self.replies = 0
        self.spoiled = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def set(self, mode: Mode, *, rate: float = 1.0, delay_s: float = 0.0) -> None:
        self.mode, self.rate, self.delay_s = mode, rate, delay_s
        self._flowing.clear() if mode == "freeze" else self._flowing.set()
        if mode == "refuse":
            await self._stop_listening()
            self.reset()
        elif self._server is None:
            await self._listen()

    def reset(self) -> None:
        """Break every connection off."""
        for writer in self._open:
            writer.transport.abort()

    async def aclose(self) -> None:
        await self._stop_listening()
        self._flowing.set()
        self.reset()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pump = asyncio.create_task(self._carry(reader, writer))
        self._pumps.add(pump)
        pump.add_done_callback(self._pumps.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        upstream: asyncio.StreamWriter | None = None
        try:
            from_server, upstream = await asyncio.open_connection("127.0.0.1", self._server_port)
            commands = asyncio.create_task(self._commands(reader, upstream))
            self._pumps.add(commands)
            commands.add_done_callback(self._pumps.discard)
            await self._replies(from_server, writer)
        except OSError:
            pass
        finally:
            self._open.discard(writer)
            for end in (writer, upstream):
                if end is not None:
                    end.transport.abort()

    async def _commands(self, reader: asyncio.StreamReader, upstream: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK):
                await self._flowing.wait()
                upstream.write(data)
                await upstream.drain()
        upstream.close()

    async def _replies(self, from_server: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        waiting, mute = b"", False
        while data := await from_server.read(CHUNK):
            waiting += data
            while (end := reply_end(waiting)) is not None:
                reply, waiting = waiting[:end], waiting[end:]
                self.replies += 1
                await self._flowing.wait()
                if self.mode == "delay":
                    await asyncio.sleep(self.delay_s)
                elif self.mode in ("drop", "half", "garbage") and self._dice.random() < self.rate:
                    self.spoiled += 1
                    if self.mode == "half":
                        writer.write(reply[: len(reply) // 2])
                        await writer.drain()
                        return
                    if self.mode == "garbage":
                        reply = self._dice.choice(NONSENSE)
                    elif self._dice.random() < self.mute_share:
                        mute = True  # a stream has no holes: what was to follow is lost with it
                    else:
                        return
                if not mute:
                    writer.write(reply)
            await writer.drain()


def reply_end(data: bytes, at: int = 0) -> int | None:
    """Where the RESP2 reply that begins at `at` ends; None while a part of it is missing."""
    line = data.find(b"\r\n", at)
    if line < 0:
        return None
    kind, end = data[at : at + 1], line + 2
    if kind == b"$":
        length = int(data[at + 1 : line])
        end += length + 2 if length >= 0 else 0
        return end if end <= len(data) else None
    if kind == b"*":
        for _ in range(int(data[at + 1 : line])):
            inner = reply_end(data, end)
            if inner is None:
                return None
            end = inner
    return end


@asynccontextmanager
async def fault_proxy(server_port: int, seed: int = 0) -> AsyncIterator[FaultProxy]:
    """A proxy that passes everything, until it is told otherwise."""
    proxy = FaultProxy(server_port, seed)
    await proxy.set("pass")
    try:
        yield proxy
    finally:
        await proxy.aclose()
