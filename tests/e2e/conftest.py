"""One real service for all tests here: `acr serve` as a person would start it, with the real model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

START_TIMEOUT_S = 240.0
STOP_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Running:
    """A running service: its address, the key of each tenant, and the environment of its commands."""

    base_url: str
    keys: dict[str, str]
    env: dict[str, str]
    redis_url: str

    def acr(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the service's folder."""
        return subprocess.run(
            [Path(sys.executable).with_name("acr"), *args],
            env={**self.env, "COLUMNS": "120"},
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with served(tmp_path_factory.mktemp("state")) as running:
        yield running


@contextmanager
def served(state: Path, *options: str) -> Iterator[Running]:
    """`acr serve` with a state folder of its own, until the `with` ends."""
    log = state / "log"
    env = {k: v for k, v in os.environ.items() if k not in ("REDIS_URL", "CACHE_REDIS_URL", "ACR_API_KEY")}
    env["ACR_STATE_DIR"] = str(state)
    with log.open("w") as out:
        command = [Path(sys.executable).with_name("acr"), "serve", "--port", "0", *options]
        process = subprocess.Popen(command, env=env, stdout=out, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while "ready after" not in log.read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"acr serve did not come up:\n{log.read_text()}")
            time.sleep(0.5)
        record = json.loads((state / "run.json").read_text())
        keys = {file.name: file.read_text().strip() for file in (state / "keys").iterdir()}
        yield Running(record["base_url"], keys, env, record["redis_url"])
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            pytest.fail(f"acr serve did not stop on Ctrl-C:\n{log.read_text()}")
