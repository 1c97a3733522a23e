"""The state folder and leftovers, with real processes."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from policies.keys import hash_key
from router.leftovers import STACK_ID, end_processes, processes_of
from router.startup import Interrupted, Signals, StartupError
from router.state import RunRecord, StateDir, write_private

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "print('up', flush=True); time.sleep(60)",
]


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def start(
    processes: list[subprocess.Popen[bytes]], stack_id: str | None, command: list[str] | None = None
) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if name != STACK_ID}
    if stack_id is not None:
        environment[STACK_ID] = stack_id
    process = subprocess.Popen(command or SLEEP, env=environment, stdout=subprocess.PIPE)
    processes.append(process)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    return process


def test_only_processes_of_the_stack_are_ended(started: list[subprocess.Popen[bytes]]) -> None:
    ours, other, none = start(started, "a" * 32), start(started, "a" * 31 + "b"), start(started, None)
    assert processes_of("a" * 32) == [ours.pid]
    assert end_processes("a" * 32) == 1
    assert ours.wait(5) == -signal.SIGTERM
    assert other.poll() is None
    assert none.poll() is None


def test_a_longer_id_is_another_stack(started: list[subprocess.Popen[bytes]]) -> None:
    longer = start(started, "abc1")
    assert end_processes("abc") == 0
    assert longer.poll() is None


def test_what_ignores_sigterm_is_killed(
    started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.leftovers.TERMINATE_S", 0.2)
    stubborn = start(started, "c" * 32, STUBBORN)
    assert end_processes("c" * 32) == 1
    assert stubborn.wait(5) == -signal.SIGKILL


def test_this_process_is_never_one_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    identity = next(
        (part for part in Path("/proc/self/environ").read_bytes().split(b"\0") if part), b""
    ).decode()
    assert identity
    assert os.getpid() not in processes_of(identity.split("=", 1)[1])


def test_nothing_to_end_takes_no_time() -> None:
    began = time.monotonic()
    assert end_processes("d" * 32) == 0
    assert time.monotonic() - began < 2


def test_a_killed_stack_is_cleared_away(tmp_path: Path, started: list[subprocess.Popen[bytes]]) -> None:
    state = StateDir(tmp_path / ".acr")
    with state.claimed():
        record = state.new_run()
    left = start(started, record.stack_id)
    with state.claimed():
        assert state.clear_leftovers() == 1
        assert left.wait(5) == -signal.SIGTERM
        assert not Path(record.run_dir).exists()
        assert state.read_record() is None
        assert state.clear_leftovers() == 0


@pytest.mark.parametrize("text", ["", "{", "[]", '{"stack_id": "x"}', '{"who": 1}'])
def test_a_damaged_record_ends_nothing(tmp_path: Path, text: str) -> None:
    state = StateDir(tmp_path)
    (tmp_path / "run.json").write_text(text)
    with state.claimed():
        assert state.clear_leftovers() == 0


def test_a_record_cannot_make_it_delete_another_folder(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    state = StateDir(tmp_path / ".acr")
    with state.claimed():
        state.write_record(RunRecord("e" * 32, 1, str(precious)))
        state.clear_leftovers()
    assert precious.exists()


def test_one_stack_a_folder(tmp_path: Path) -> None:
    first, second = StateDir(tmp_path), StateDir(tmp_path)
    with first.claimed():
        first.write_record(RunRecord("f" * 32, 4711, "/tmp/x", base_url="http://127.0.0.1:8000"))  # noqa: S108
        said = "already runs at http://127.0.0.1:8000 .process 4711.; stop it"
        with pytest.raises(StartupError, match=said), second.claimed():
            pass
    with second.claimed():
        pass


def test_the_lock_of_a_killed_stack_is_free(tmp_path: Path) -> None:
    code = f"""
import time
from pathlib import Path
from router.state import StateDir
with StateDir(Path({str(tmp_path)!r})).claimed():
    print("up", flush=True)
    time.sleep(60)
"""
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"up\n"
    with pytest.raises(StartupError), StateDir(tmp_path).claimed():
        pass
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with StateDir(tmp_path).claimed():
        pass


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    state = StateDir(tmp_path / "file" / ".acr")
    with pytest.raises(StartupError, match=r"cannot write to .*; set ACR_STATE_DIR"), state.claimed():
        pass


def test_everything_in_it_is_for_its_owner(tmp_path: Path) -> None:
    state = StateDir(tmp_path / ".acr")
    with state.claimed():
        record = state.new_run()
        state.keys(["demo"])
        for path in [state.path, *state.path.rglob("*"), Path(record.run_dir)]:
            mode = stat.S_IMODE(path.stat().st_mode)
            assert mode == (0o700 if path.is_dir() else 0o600), path
        state.forget(record)


def test_keys_are_made_once_and_one_a_tenant(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    keys = state.keys(["demo", "batch"])
    assert len(set(keys.values())) == 2
    assert state.keys(["batch", "demo", "new"]) == keys | {"new": state.keys(["new"])["new"]}
    assert state.key_file("demo").read_text().strip() == keys["demo"]
    assert len(hash_key(keys["demo"])) == 64


def test_an_empty_key_file_is_filled(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    state.keys(["demo"])
    state.key_file("demo").write_text("")
    assert state.keys(["demo"])["demo"]


def test_the_folder_can_be_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACR_STATE_DIR", str(tmp_path / "elsewhere"))
    assert StateDir().path == tmp_path / "elsewhere"
    monkeypatch.setenv("ACR_STATE_DIR", "")
    monkeypatch.chdir(tmp_path)
    assert StateDir().path == tmp_path / ".acr"


def test_private_files_are_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, "new")
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["secret"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_interrupts_once_and_no_more(number: signal.Signals) -> None:
    before = signal.getsignal(number)

    def stack() -> None:
        with Signals():
            try:
                os.kill(os.getpid(), number)
            finally:
                os.kill(os.getpid(), number)  # while it stops: ignored

    with pytest.raises(Interrupted):
        stack()
    assert signal.getsignal(number) is before


def test_signals_are_ignored_while_stopping() -> None:
    with Signals() as signals:
        signals.ignore()
        os.kill(os.getpid(), signal.SIGTERM)


def test_the_secret_is_made_once_and_is_this_user_s_only(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    assert state.read_secret() is None
    secret = state.secret()
    assert len(bytes.fromhex(secret)) == 32
    assert state.secret() == StateDir(tmp_path).read_secret() == secret
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
