"""vLLM's own OpenAI server as a process of a test's, on a free loopback port."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx

START_WITHIN_S = 600.0
STOP_WITHIN_S = 30.0


class VLLMServer:
    """`vllm.entrypoints.openai.api_server` for one model; what it prints is in `log`."""

    def __init__(self, model: Path, name: str, key: str, log: Path, *options: str) -> None:
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = log
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
        command += ["--served-model-name", name, "--host", "127.0.0.1", "--port", str(self.port), *options]
        # The key by the environment: an argument shows in the list of processes.
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                command,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, "VLLM_API_KEY": key},
                start_new_session=True,
            )

    def wait(self) -> None:
        """Until it answers; raises RuntimeError with the end of its log."""
        deadline = time.monotonic() + START_WITHIN_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/health", timeout=2.0, trust_env=False).is_success:
                    return
            time.sleep(0.5)
        self.stop()
        raise RuntimeError(f"vLLM did not start:\n{self._log.read_text(errors='replace')[-4000:]}")

    def stop(self) -> None:
        """End it and the processes it started."""
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_WITHIN_S)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
