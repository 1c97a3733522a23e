"""The packaged HAProxy behind our wrapper, without Ray: what it listens on, refuses, and outlives."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import pytest

from router.ports import free_port
from router.serve_env import find_haproxy, write_wrapper

SERVES_TEMPLATE = """global
    stats socket {folder}/admin.sock mode 666 level admin expose-fd listeners
    maxconn 64
defaults
    mode http
    timeout connect 1s
    timeout client 2s
    timeout server 30s
    option abortonclose
    option splice-request
    option splice-response
    errorfile 503 {folder}/500.http
frontend prometheus
    bind :{metrics_port}
    mode http
    http-request use-service prometheus-exporter if {{ path /metrics }}
frontend http_frontend
    bind 127.0.0.1:{port}
    default_backend app
backend app
    server app 127.0.0.1:{app_port}
listen stats
  bind *:{stats_port}
  stats enable
  stats uri /stats
"""


def eventually(true: Callable[[], bool], within_s: float = 5.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if true():
            return True
        time.sleep(0.02)
    return False


class Proxy:
    """A running HAProxy, started as Serve starts it."""

    def __init__(self, folder: Path, header_timeout_s: int = 1) -> None:
        self.folder = folder
        self.port, self.app_port = free_port(0), free_port(0)
        self.stats_port, self.metrics_port = free_port(0), free_port(0)
        binary = find_haproxy()
        assert binary is not None
        self.wrapper = write_wrapper(folder / "haproxy", binary)
        text = self.wrapper.read_text()
        self.wrapper.write_text(text.replace(f"{binary} 10", f"{binary} {header_timeout_s}"))
        self.config = folder / "haproxy.cfg"
        self.config.write_text(
            SERVES_TEMPLATE.format(
                folder=folder,
                port=self.port,
                app_port=self.app_port,
                stats_port=self.stats_port,
                metrics_port=self.metrics_port,
            )
        )
        self.command = [str(self.wrapper), "-db", "-f", str(self.config), "-dR"]

    def connects(self, port: int | None = None, host: str = "127.0.0.1") -> bool:
        with socket.socket() as client:
            client.settimeout(1)
            return client.connect_ex((host, self.port if port is None else port)) == 0


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="acr-", dir="/tmp"))  # a socket's path is short
    yield path
    shutil.rmtree(path)


@pytest.fixture
def proxy(folder: Path) -> Iterator[Proxy]:
    made = Proxy(folder)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(made.command, stdout=log, stderr=log)
    try:
        assert eventually(made.connects), (folder / "log").read_text()
        yield made
    finally:
        process.kill()
        process.wait()


@pytest.fixture
async def app(proxy: Proxy) -> AsyncIterator[list[bytes]]:
    """A service that answers what the path says, `/503` with our headers; its list is what it was sent."""
    seen: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            seen.append(head)
            path = head.split()[1].decode()
            if path == "/break":
                return
            if path == "/slow":
                await asyncio.sleep(3)
                path = "/200"
            if path == "/wait":
                await reader.readexactly(2)
                with contextlib.suppress(ConnectionResetError):
                    await reader.read()  # until the other side closes
                seen.append(b"left")
                return
            body = b'{"error": {"code": "mine"}}'
            writer.write(
                f"HTTP/1.1 {path[1:]} X\r\nretry-after: 7\r\nx-request-id: abc\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode()
                + body
            )
            await writer.drain()
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", proxy.app_port)
    async with server:
        yield seen


def listeners(pid: int) -> set[str]:
    """The TCP addresses that a process listens on, from /proc."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        target = os.readlink(descriptor)
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                found.add(fields[1])
    return found


def pid_of(proxy: Proxy) -> int:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if str(proxy.config).encode() in words:
                return int(entry.name)
    raise AssertionError("it does not run")


async def get(proxy: Proxy, path: str, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
        return await client.get(f"http://127.0.0.1:{proxy.port}{path}", headers=headers)


def test_it_listens_on_loopback_only_and_on_nothing_else(proxy: Proxy) -> None:
    assert listeners(pid_of(proxy)) == {f"0100007F:{proxy.port:04X}"}
    assert not proxy.connects(proxy.stats_port)
    assert not proxy.connects(proxy.metrics_port)


def test_the_admin_socket_is_for_its_owner(proxy: Proxy) -> None:
    assert (proxy.folder / "admin.sock").stat().st_mode & 0o777 == 0o600


def test_serve_finds_its_process_by_the_configuration_s_path(proxy: Proxy) -> None:
    words = Path(f"/proc/{pid_of(proxy)}/cmdline").read_bytes().split(b"\0")
    assert words[1:5] == [b"-db", b"-f", str(proxy.config).encode(), b"-dR"]


async def test_without_a_service_it_says_overloaded(proxy: Proxy) -> None:
    reply = await get(proxy, "/")
    assert reply.status_code == 503
    assert reply.json()["error"]["code"] == "overloaded"
    assert reply.headers["retry-after"] == "2"
    assert reply.headers["x-should-retry"] == "true"
    assert reply.headers["x-request-id"]


async def test_a_service_that_breaks_off_is_an_upstream_error(proxy: Proxy, app: list[bytes]) -> None:
    reply = await get(proxy, "/break")
    assert reply.status_code == 502
    assert reply.json()["error"]["code"] == "upstream_error"
    assert reply.headers["x-should-retry"] == "false"
    assert len(app) == 1  # and it was not sent again


@pytest.mark.parametrize("status", [200, 400, 429, 500, 502, 503, 504])
async def test_what_the_service_says_passes_untouched(proxy: Proxy, app: list[bytes], status: int) -> None:
    reply = await get(proxy, f"/{status}")
    assert reply.status_code == status
    assert reply.json() == {"error": {"code": "mine"}}
    assert reply.headers["retry-after"] == "7"
    assert reply.headers["x-request-id"] == "abc"


async def test_an_answer_may_take_longer_than_a_client_may_be_silent(proxy: Proxy, app: list[bytes]) -> None:
    assert "timeout client 2s" in proxy.config.read_text()
    assert (await get(proxy, "/slow")).status_code == 200  # it takes 3 s


@pytest.mark.parametrize("attempt", range(5))
async def test_a_client_that_leaves_is_noticed_also_when_its_body_came_late(
    proxy: Proxy, app: list[bytes], attempt: int
) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"POST /wait HTTP/1.1\r\nHost: x\r\ncontent-length: 2\r\n\r\n")
    await writer.drain()
    while not app:
        await asyncio.sleep(0.01)
    writer.write(b"{}")
    await writer.drain()
    await asyncio.sleep(0.1)
    writer.close()
    async with asyncio.timeout(5):
        while len(app) < 2:
            await asyncio.sleep(0.01)


async def test_callers_cannot_set_serve_s_own_headers(proxy: Proxy, app: list[bytes]) -> None:
    sent = {"x-request-timeout-seconds": "1", "x-request-disconnect-disabled": "?1", "x-request-id": "kept"}
    await get(proxy, "/200", **sent)
    head = app[0].lower()
    assert b"x-request-timeout-seconds" not in head
    assert b"x-request-disconnect-disabled" not in head
    assert b"x-request-id: kept" in head


@pytest.mark.parametrize("unsafe", ["two words", "x" * 129, "caf\u00e9"])
async def test_request_ids_that_are_no_safe_words_are_dropped(
    proxy: Proxy, app: list[bytes], unsafe: str
) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
        headers = [(b"x-request-id", unsafe.encode())]
        await client.get(f"http://127.0.0.1:{proxy.port}/200", headers=headers)
    assert b"x-request-id" not in app[0].lower()


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\nHost: x\r\n", b"G", b""])
def test_headers_that_do_not_come_are_not_waited_for(proxy: Proxy, sent: bytes) -> None:
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", proxy.port)) as client:
        client.settimeout(8)
        client.sendall(sent)
        reply = b""
        while chunk := client.recv(4096):
            reply += chunk
    assert reply[:12] in (b"HTTP/1.1 408", b"")
    assert time.monotonic() - began < 5


async def test_bad_http_is_refused_and_never_passed_on(proxy: Proxy, app: list[bytes]) -> None:
    for sent in (b"NOT HTTP\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 60_000 + b"\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", proxy.port)) as client:
            client.settimeout(5)
            client.sendall(sent)
            assert client.recv(4096).startswith(b"HTTP/1.1 400")
    assert app == []


def test_it_dies_with_a_parent_that_was_killed(folder: Path) -> None:
    proxy = Proxy(folder)
    code = f"import subprocess, time; subprocess.Popen({proxy.command!r}); time.sleep(60)"
    parent = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    try:
        assert eventually(proxy.connects)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    assert eventually(lambda: not proxy.connects())


def test_a_configuration_that_would_be_open_is_not_started(folder: Path) -> None:
    proxy = Proxy(folder)
    proxy.config.write_text(proxy.config.read_text().replace("bind 127.0.0.1:", "bind *:"))
    done = subprocess.run(proxy.command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode != 0
    assert "only loopback is allowed" in done.stderr


def test_what_prepares_the_environment_does_not_import_ray() -> None:
    """Ray reads the environment when it is imported; before that it must be set."""
    modules = "router.local, router.preflight, router.profiles, router.cli.serve"
    code = f"import sys, json, {modules}; print(json.dumps('ray' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) is False
