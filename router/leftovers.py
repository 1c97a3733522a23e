"""Processes of a stack that was killed: found by the id in their environment, ended, and nothing else."""

from __future__ import annotations

import os
import select
import signal
import time
from contextlib import suppress
from pathlib import Path

STACK_ID = "ACR_STACK_ID"
"""Every process of a stack carries its id in the environment it was started with."""

TERMINATE_S = 3.0
ROUNDS = 5


def end_processes(stack_id: str) -> int:
    """SIGTERM to this user's processes that carry `stack_id`, SIGKILL after 3 s; how many there were.

    The id is 128 random bits that only a stack's own children inherit: neither a recycled pid nor a
    process that merely looks alike is taken for one. Signals go through handles (pidfd), opened before
    the id is read, so that they cannot reach a process that takes over the pid in between. Blocking.
    """
    count = 0
    for _ in range(ROUNDS):  # a process that is ended while it starts may have made another meanwhile
        ended = _end_those_there(stack_id)
        count += ended
        if not ended:
            break
    return count


def _end_those_there(stack_id: str) -> int:
    handles = _handles(stack_id)
    try:
        for number in (signal.SIGTERM, signal.SIGKILL):
            for handle in handles:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, number)
            if _all_ended(handles, time.monotonic() + TERMINATE_S):
                break
    finally:
        for handle in handles:
            os.close(handle)
    return len(handles)


def processes_of(stack_id: str) -> list[int]:
    """Their pids, without this process."""
    return [pid for pid in _pids() if _carries(pid, stack_id)]


def _handles(stack_id: str) -> list[int]:
    handles = []
    for pid in processes_of(stack_id):
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        if _carries(pid, stack_id):
            handles.append(handle)
        else:
            os.close(handle)
    return handles


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _carries(pid: int, stack_id: str) -> bool:
    folder = Path("/proc") / str(pid)
    if pid == os.getpid():
        return False
    try:
        environment = (folder / "environ").read_bytes().split(b"\0")
        return f"{STACK_ID}={stack_id}".encode() in environment and folder.stat().st_uid == os.getuid()
    except OSError:  # it ended meanwhile, or it is another user's
        return False


def _all_ended(handles: list[int], deadline_s: float) -> bool:
    """A handle becomes readable when its process ends, a zombie included."""
    open_handles = set(handles)
    while open_handles and (left_s := deadline_s - time.monotonic()) > 0:
        ended, _, _ = select.select(list(open_handles), [], [], left_s)
        open_handles.difference_update(ended)
    return not open_handles
