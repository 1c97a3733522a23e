"""`acr serve` as a user runs it: what it prints, what it leaves behind, and how it says no."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

import policies
from router.leftovers import processes_of
from router.profiles import fake_config
from router.state import RunRecord, StateDir

START_TIMEOUT_S = 150.0
STOP_TIMEOUT_S = 40.0


class Command:
    """`acr serve` in a folder and a process group of its own, as a terminal starts it."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self.folder = folder
        self.output = folder / f"output-{time.monotonic_ns()}"
        inherited = {k: v for k, v in os.environ.items() if k not in ("REDIS_URL", "CACHE_REDIS_URL")}
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "router.cli.main", "serve", *arguments],
                cwd=folder,
                env=inherited | {"ACR_STATE_DIR": str(folder / ".acr")} | environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self.output.read_text()

    @property
    def record(self) -> RunRecord | None:
        return StateDir(self.folder / ".acr").read_record()

    def ready(self) -> Command:
        done = eventually(
            lambda: self.process.poll() is not None or "Ctrl-C stops" in self.said, START_TIMEOUT_S
        )
        assert done, self.said
        assert self.process.poll() is None, self.said
        return self

    def ends(self) -> int:
        return self.process.wait(STOP_TIMEOUT_S)

    def interrupt(self) -> None:
        """Ctrl-C: the terminal signals the whole foreground group."""
        os.killpg(self.process.pid, signal.SIGINT)


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    started: list[Command] = []

    def start(*arguments: str, folder: Path = tmp_path, **environment: str) -> Command:
        started.append(Command(folder, *arguments, **environment))
        return started[-1]

    yield start
    for command in started:
        if command.process.poll() is None:
            command.process.terminate()
            try:
                command.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                command.process.kill()
                command.process.wait()


def eventually(true: Callable[[], bool], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if true():
            return True
        time.sleep(0.05)
    return False


def connects(url: str) -> bool:
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex(("127.0.0.1", httpx.URL(url).port or 80)) == 0


def budget_used(command: Command) -> int:
    key = StateDir(command.folder / ".acr").key_file("demo").read_text().strip()
    assert command.record is not None
    reply = httpx.post(
        f"{command.record.base_url}/v1/explain",
        json={"model": "direct", "messages": [{"role": "user", "content": "x"}]},
        headers={"Authorization": f"Bearer {key}"},
        trust_env=False,
        timeout=30,
    )
    return int(next(each["used"] for each in reply.json()["budgets"] if each["window"] == "day"))


def test_start_use_kill_start_again_and_stop(commands: Callable[..., Command], tmp_path: Path) -> None:
    """One story, because every start takes its time."""
    first = commands("--engine", "fake", "--port", "0").ready()

    # What it prints works when pasted.
    lines = first.said.splitlines()
    assert any(line.startswith("ready after ") for line in lines)
    curl = next(line for line in lines if line.startswith("curl "))
    pasted = subprocess.run(
        ["bash", "-c", f"{curl} -s"], capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(pasted.stdout)["object"] == "chat.completion"
    words = shlex.split(curl)
    url, key = words[1].removesuffix("/chat/completions"), words[5].removeprefix("Authorization: Bearer ")
    with OpenAI(base_url=url, api_key=key, max_retries=0, timeout=60) as client:
        reply = client.chat.completions.create(model="auto", messages=[{"role": "user", "content": "hello"}])
    assert reply.choices[0].message.content
    used = budget_used(first)
    assert used > 0

    # A second one in the same folder says so and harms nothing.
    second = commands("--engine", "fake", "--port", "0")
    assert second.ends() == 2
    assert "already runs at http://127.0.0.1:" in second.said
    assert first.process.poll() is None

    # Killed the hard way: no listener stays for long, and the next start cleans up the rest.
    killed = first.record
    assert killed is not None
    first.process.kill()
    first.process.wait()
    assert eventually(lambda: not connects(killed.base_url), 30)
    again = commands("--engine", "fake", "--port", "0").ready()
    assert processes_of(killed.stack_id) == []
    assert not Path(killed.run_dir).exists()
    assert budget_used(again) >= used  # what was spent is still known

    # Ctrl-C: everything ends, quickly, and it says so.
    running = again.record
    assert running is not None
    assert len(processes_of(running.stack_id)) > 10
    began = time.monotonic()
    again.interrupt()
    assert again.ends() == 0
    assert time.monotonic() - began < 30
    assert again.said.rstrip().splitlines()[-2:] == ["  stopping", "  stopped"]
    assert "Traceback" not in again.said
    assert processes_of(running.stack_id) == []
    assert not Path(running.run_dir).exists()
    assert again.record is None
    assert {path.name for path in (tmp_path / ".acr").iterdir()} == {"budgets", "keys", "lock", "secret"}


def test_sigterm_while_it_starts_leaves_nothing(commands: Callable[..., Command]) -> None:
    command = commands("--engine", "fake", "--port", "0")
    assert eventually(lambda: "stores: " in command.said, START_TIMEOUT_S)  # Ray is starting now
    record = command.record
    assert record is not None
    time.sleep(2)
    command.process.terminate()
    assert command.ends() == 0, command.said
    assert "stopped" in command.said
    assert processes_of(record.stack_id) == []
    assert not Path(record.run_dir).exists()


# -- how it says no: one line, exit code 2, within seconds, nothing started


def no(command: Command) -> str:
    """The one line it said."""
    began = time.monotonic()
    assert command.ends() == 2, command.said
    assert time.monotonic() - began < 30
    lines = command.said.strip().splitlines()
    assert len(lines) == 1, command.said
    assert lines[0].startswith("acr serve: ")
    assert command.record is None
    return lines[0]


def test_a_port_that_is_taken(commands: Callable[..., Command]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = no(commands("--engine", "fake", "--port", str(port)))
    assert f"port {port} on 127.0.0.1 is in use; choose another with --port" in said


def test_a_policy_that_is_broken(commands: Callable[..., Command], tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    text = (Path(policies.__file__).parent / "default.yaml").read_text()
    policy.write_text(text.replace("quality_target: 0.8", "quality_target: 8", 1))
    said = no(commands("--engine", "fake", "--port", "0", "--policy", "policy.yaml"))
    assert "policy.yaml:" in said
    assert "quality_target" in said


def test_a_policy_that_is_not_there(commands: Callable[..., Command]) -> None:
    assert "none.yaml" in no(commands("--engine", "fake", "--port", "0", "--policy", "none.yaml"))


def test_a_store_that_does_not_answer(commands: Callable[..., Command]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"redis://:very-secret@127.0.0.1:{port}/0"
    said = no(commands("--engine", "fake", "--port", "0", REDIS_URL=url))
    assert "REDIS_URL" in said
    assert "very-secret" not in said


def test_a_model_that_is_not_there(commands: Callable[..., Command], tmp_path: Path) -> None:
    said = no(commands("--port", "0", ACR_CACHE_DIR=str(tmp_path / "empty")))
    assert "model" in said
    assert str(tmp_path / "empty") in said


def written(folder: Path, **changes: Any) -> str:
    config = fake_config().model_dump(mode="json") | changes
    (folder / "app.json").write_text(json.dumps(config))
    return "app.json"


def test_a_classifier_that_is_not_there(commands: Callable[..., Command], tmp_path: Path) -> None:
    classifier = {"artifact": "nothing", "num_cpus": 0.1}
    assert "nothing is not a directory" in no(
        commands("--port", "0", "--config", written(tmp_path, classifier=classifier))
    )


def test_a_configuration_with_a_typo(commands: Callable[..., Command], tmp_path: Path) -> None:
    said = no(commands("--port", "0", "--config", written(tmp_path, polcy="x")))
    assert "app.json: polcy: Extra inputs are not permitted" in said


def test_a_deployment_that_fails_says_why(commands: Callable[..., Command], tmp_path: Path) -> None:
    """After Ray and Serve are up: the line is what the replica raised, and everything is stopped again."""
    tiers = fake_config().model_dump(mode="json")["tiers"]
    tiers["search"]["engine"] = {
        "kind": "openai_http",
        "base_url": "http://127.0.0.1:9/v1",
        "model": "m",
        "context_tokens": 4096,
        "api_key_env": "ACR_TEST_NO_SUCH_KEY",
    }
    command = commands("--port", "0", "--config", written(tmp_path, tiers=tiers))
    assert command.process.wait(START_TIMEOUT_S) == 2, command.said
    last = command.said.strip().splitlines()[-1]
    assert last.startswith("acr serve: the service did not start: ")
    assert "the environment variable ACR_TEST_NO_SUCH_KEY holds no API key" in last
    assert command.record is None
