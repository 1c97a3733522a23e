"""Ports of this machine's loopback interface."""

from __future__ import annotations

import contextlib
import errno
import random
import socket

from router.startup import StartupError

HOST = "127.0.0.1"
# Above those of Ray's workers (10002 to 19999), below those that Linux hands out (from 32768).
QUIET_PORTS = range(20_000, 32_768)
ATTEMPTS = 50


def free_port(port: int) -> int:
    """The port itself if it is free, any free one for 0. Raises StartupError if it is not.

    It is bound seconds after this look, by another process. So 0 takes none of those that the system or Ray's
    workers hand out in the meantime.
    """
    if port:
        _bind(port)
        return port
    for candidate in random.sample(QUIET_PORTS, ATTEMPTS):
        with contextlib.suppress(StartupError):
            _bind(candidate)
            return candidate
    raise StartupError(f"no free port was found on {HOST}; name one with --port")


def _bind(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            problem = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
            raise StartupError(f"port {port} on {HOST} {problem}; choose another with --port") from error
