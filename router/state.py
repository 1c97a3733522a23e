"""The local stack's folder: one stack at a time, its secrets, its keys, and what a killed one left behind."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from policies.keys import create_key
from router.leftovers import end_processes
from router.startup import StartupError

RUN_DIR_PREFIX = "acr-"


@dataclass(frozen=True, slots=True)
class RunRecord:
    """`run.json` (mode 600): the stack that runs, or one that was killed.

    The Redis URLs carry the password of an embedded Valkey; they are for this user's own commands.
    """

    stack_id: str
    pid: int
    run_dir: str
    base_url: str = ""
    redis_url: str = ""
    cache_redis_url: str = ""


class StateDir:
    """`.acr/` in the current folder, or `$ACR_STATE_DIR`. Everything in it is for this user only."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = (path or Path(os.environ.get("ACR_STATE_DIR") or ".acr")).absolute()

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold the folder for one stack. Raises StartupError while another one runs.

        The kernel drops the lock when its holder dies, however it dies.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.chmod(0o700)
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StartupError(f"cannot write to {self.path}: {error.strerror}; set ACR_STATE_DIR") from error
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StartupError(self._who_runs()) from None
            yield
        finally:
            os.close(lock)

    def _who_runs(self) -> str:
        record = self.read_record()
        where = f" at {record.base_url} (process {record.pid})" if record is not None else ""
        return f"a local stack already runs{where}; stop it, or set ACR_STATE_DIR to another folder"

    def clear_leftovers(self) -> int:
        """End what a killed stack left running, and remove its files; how many processes there were.

        Call it while the folder is claimed: then the recorded stack is dead.
        """
        record = self.read_record()
        if record is None:
            return 0
        ended = end_processes(record.stack_id)
        self.forget(record)
        return ended

    def new_run(self) -> RunRecord:
        """A new stack's record, written at once, and its private run folder.

        The folder lies in /tmp because a Unix socket's path is at most 107 bytes long.
        """
        run_dir = tempfile.mkdtemp(prefix=RUN_DIR_PREFIX, dir="/tmp")
        record = RunRecord(secrets.token_hex(16), os.getpid(), run_dir)
        self.write_record(record)
        return record

    def forget(self, record: RunRecord) -> None:
        """Remove a dead stack's run folder and record."""
        run_dir = Path(record.run_dir)
        if run_dir.name.startswith(RUN_DIR_PREFIX) and not run_dir.is_symlink() and _is_ours(run_dir):
            shutil.rmtree(run_dir, ignore_errors=True)
        (self.path / "run.json").unlink(missing_ok=True)

    def read_record(self) -> RunRecord | None:
        """None where there is none, or where it cannot be read."""
        try:
            return RunRecord(**json.loads((self.path / "run.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def write_record(self, record: RunRecord) -> None:
        write_private(self.path / "run.json", json.dumps(asdict(record)))

    def secret(self) -> str:
        """ACR_CACHE_SECRET of this folder's stacks, made the first time (mode 600).

        It outlives a stack: what was sealed before, published policies above all, opens after a restart.
        """
        path = self.path / "secret"
        if (known := self.read_secret()) is not None:
            return known
        write_private(path, secrets.token_hex(32) + "\n")
        return self.secret()

    def read_secret(self) -> str | None:
        """None where no stack has run here yet."""
        try:
            return (self.path / "secret").read_text(encoding="utf-8").strip() or None
        except OSError:
            return None

    def key_file(self, tenant: str) -> Path:
        return self.path / "keys" / tenant

    def keys(self, tenants: Iterable[str]) -> dict[str, str]:
        """Tenant -> its key for this machine, made the first time (mode 600)."""
        keys = {}
        for tenant in tenants:
            path = self.key_file(tenant)
            try:
                key = path.read_text(encoding="utf-8").strip()
            except OSError:
                key = ""
            if not key:
                key, _ = create_key()
                path.parent.mkdir(mode=0o700, exist_ok=True)
                write_private(path, key + "\n")
            keys[tenant] = key
        return keys


def write_private(path: Path, text: str) -> None:
    """Write a file that only this user can read, whole or not at all."""
    scratch = path.with_name(f".{path.name}.new")
    scratch.unlink(missing_ok=True)
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    os.replace(scratch, path)


def _is_ours(path: Path) -> bool:
    try:
        return path.stat().st_uid == os.getuid()
    except OSError:
        return False
