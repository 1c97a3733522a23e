from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, OutOfMemoryError
from redis.retry import Retry

from router.startup import StartupError
from router.valkey import ValkeyProcess


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """Short: a socket's path is at most 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="acr-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


def client(valkey: ValkeyProcess) -> Redis:
    return Redis.from_url(valkey.url, decode_responses=True)


def fill(valkey: ValkeyProcess) -> None:
    """6 MB, in 64 keys."""
    for number in range(64):
        client(valkey).set(f"k{number}", "x" * 100_000)


def eventually(true: Callable[[], bool], within_s: float = 5.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if true():
            return True
        time.sleep(0.02)
    return False


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_it_answers_by_its_url(run_dir: Path) -> None:
    with ValkeyProcess("budgets", run_dir, max_memory_mib=16) as valkey:
        assert client(valkey).ping()


def test_budgets_survive_a_restart(run_dir: Path, tmp_path: Path) -> None:
    with ValkeyProcess("budgets", run_dir, max_memory_mib=16, data_dir=tmp_path / "data") as valkey:
        client(valkey).set("spent", 7)
    with ValkeyProcess("budgets", run_dir, max_memory_mib=16, data_dir=tmp_path / "data") as valkey:
        assert client(valkey).get("spent") == "7"


def test_budgets_survive_a_kill(run_dir: Path, tmp_path: Path) -> None:
    valkey = ValkeyProcess("budgets", run_dir, max_memory_mib=16, data_dir=tmp_path / "data")
    valkey.start()
    client(valkey).set("spent", 7)
    assert valkey.pid is not None
    os.kill(valkey.pid, signal.SIGKILL)
    valkey.stop()
    with valkey:
        assert client(valkey).get("spent") == "7"


def test_budgets_are_never_evicted(run_dir: Path, tmp_path: Path) -> None:
    with ValkeyProcess("budgets", run_dir, max_memory_mib=2, data_dir=tmp_path / "data") as valkey:
        with pytest.raises(OutOfMemoryError):
            fill(valkey)
        assert client(valkey).get("k0") is not None


def test_the_cache_forgets_instead_of_refusing(run_dir: Path) -> None:
    with ValkeyProcess("cache", run_dir, max_memory_mib=4) as valkey:
        fill(valkey)
        assert client(valkey).get("k63") is not None
        # Which ones went is its own affair: all were written within the second that its LRU clock counts.
        assert 0 < client(valkey).dbsize() < 64


def test_no_tcp_port_and_no_one_without_the_password(run_dir: Path) -> None:
    with ValkeyProcess("cache", run_dir, max_memory_mib=4) as valkey:
        assert client(valkey).config_get("port") == {"port": "0"}
        socket = run_dir / "cache.sock"
        assert stat.S_IMODE(socket.stat().st_mode) == 0o600
        with pytest.raises(AuthenticationError):
            Redis(unix_socket_path=str(socket), retry=Retry(NoBackoff(), 0)).ping()


def test_the_password_is_in_no_argument_and_no_file(run_dir: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with ValkeyProcess("budgets", run_dir, max_memory_mib=4, data_dir=data) as valkey:
        password = valkey.url.rsplit("password=", 1)[1]
        assert password not in Path(f"/proc/{valkey.pid}/cmdline").read_text()
        assert password.encode() not in Path(f"/proc/{valkey.pid}/environ").read_bytes()
        for folder in (run_dir, data):
            for path in folder.rglob("*"):
                assert not path.is_file() or password.encode() not in path.read_bytes()


def test_the_data_are_for_their_owner(run_dir: Path, tmp_path: Path) -> None:
    with ValkeyProcess("budgets", run_dir, max_memory_mib=4, data_dir=tmp_path / "a" / "data"):
        assert stat.S_IMODE((tmp_path / "a" / "data").stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["with space", 'with"quote', "with\\backslash"])
def test_folders_with_odd_names(run_dir: Path, tmp_path: Path, name: str) -> None:
    with ValkeyProcess("budgets", run_dir, max_memory_mib=4, data_dir=tmp_path / name) as valkey:
        client(valkey).set("k", 1)
    assert any((tmp_path / name).rglob("*.aof"))


def test_two_on_one_machine(run_dir: Path) -> None:
    with (
        ValkeyProcess("one", run_dir, max_memory_mib=4) as one,
        ValkeyProcess("two", run_dir, max_memory_mib=4) as two,
    ):
        client(one).set("k", 1)
        assert client(two).get("k") is None


def test_stop_ends_it_and_removes_its_socket(run_dir: Path) -> None:
    valkey = ValkeyProcess("cache", run_dir, max_memory_mib=4)
    valkey.start()
    pid = valkey.pid
    assert pid is not None
    valkey.stop()
    valkey.stop()
    assert not alive(pid)
    assert not (run_dir / "cache.sock").exists()


def test_a_stale_socket_is_no_hindrance(run_dir: Path) -> None:
    (run_dir / "cache.sock").write_text("left behind")
    with ValkeyProcess("cache", run_dir, max_memory_mib=4) as valkey:
        assert client(valkey).ping()


def test_data_that_cannot_be_read_say_so_in_one_line(run_dir: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with ValkeyProcess("budgets", run_dir, max_memory_mib=4, data_dir=data) as valkey:
        client(valkey).set("k", 1)
    for path in data.rglob("*.manifest"):
        path.write_text("not a manifest\n")
    with pytest.raises(StartupError, match="embedded Valkey") as caught:
        ValkeyProcess("budgets", run_dir, max_memory_mib=4, data_dir=data).start()
    assert "\n" not in str(caught.value)


def test_a_path_that_is_too_long_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="too long"):
        ValkeyProcess("cache", tmp_path / ("x" * 100), max_memory_mib=4).start()


def test_it_dies_with_a_parent_that_was_killed(run_dir: Path) -> None:
    code = f"""
import sys, time
from pathlib import Path
from router.valkey import ValkeyProcess
valkey = ValkeyProcess("cache", Path({str(run_dir)!r}), max_memory_mib=4)
valkey.start()
print(valkey.pid, flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert alive(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert eventually(lambda: not alive(pid))


def test_ctrl_c_in_the_terminal_is_not_for_it(run_dir: Path) -> None:
    with ValkeyProcess("cache", run_dir, max_memory_mib=4) as valkey:
        assert valkey.pid is not None
        assert os.getpgid(valkey.pid) != os.getpgrp()
