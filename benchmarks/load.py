"""A closed-loop HTTP/1.1 load generator that costs little itself: raw asyncio streams, keep-alive."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Target:
    """What to send: `body()` is made anew for each request."""

    name: str
    url: str
    headers: dict[str, str]
    body: Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class Load:
    """What came of one round: requests a second and each latency in milliseconds."""

    requests_per_s: float
    latencies_ms: tuple[float, ...]

    @property
    def p50_ms(self) -> float:
        return sorted(self.latencies_ms)[len(self.latencies_ms) // 2]


async def run_load(target: Target, *, clients: int, duration_s: float) -> Load:
    """`clients` connections, each sending its next request when the last was answered.

    Raises RuntimeError at the first reply that is not 200.
    """
    latencies: list[float] = []
    ends_at = time.perf_counter() + duration_s
    began = time.perf_counter()
    await asyncio.gather(*(_client(target, ends_at, latencies) for _ in range(clients)))
    return Load(len(latencies) / (time.perf_counter() - began), tuple(latencies))


async def _client(target: Target, ends_at: float, latencies: list[float]) -> None:
    parts = urlsplit(target.url)
    fixed = "".join(f"{name}: {value}\r\n" for name, value in target.headers.items())
    head = f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\n{fixed}content-type: application/json\r\n"
    while time.perf_counter() < ends_at:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            while (began := time.perf_counter()) < ends_at:
                body = target.body()
                writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
                status, reply = await _reply(reader)
                if status != 200:
                    raise RuntimeError(f"{target.name} answered {status}: {reply[:300]!r}")
                latencies.append((time.perf_counter() - began) * 1000)
        except asyncio.IncompleteReadError:
            continue  # the proxy closes idle connections when it reloads; any client would connect again
        finally:
            writer.close()


async def _reply(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    status = int(head.split(" ", 2)[1])
    for line in head.split("\r\n"):
        if line.startswith("content-length:"):
            return status, await reader.readexactly(int(line.split(":")[1]))
    chunks = []
    while (size := int(await reader.readuntil(b"\r\n"), 16)) > 0:  # transfer-encoding: chunked
        chunks.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readexactly(2)
    return status, b"".join(chunks)
