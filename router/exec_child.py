"""Replace this process by a command that the kernel ends when its parent dies.

    python -IS exec_child.py PARENT_PID SIGNAL COMMAND [ARGUMENT ...]

A script of its own, run with a bare interpreter, because `preexec_fn` is not safe in a process with
threads. PR_SET_PDEATHSIG survives exec; the parent's pid is compared after it is set, so that a parent
that died in between is not missed. Linux only. Imports nothing of this project.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(argv: list[str]) -> None:
    parent, death_signal, command = int(argv[1]), int(argv[2]), argv[3:]
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
    os.execv(command[0], command)  # noqa: S606  the command is the caller's, not a request's


def command(executable: str, *arguments: str, death_signal: int, parent: str | None = None) -> list[str]:
    """The argv that runs `executable` so; `parent` is the pid (or a shell's "$PPID") that it dies with."""
    parent = str(os.getpid()) if parent is None else parent
    own = [sys.executable, "-IS", os.path.abspath(__file__), parent, str(int(death_signal))]
    return [*own, executable, *arguments]


if __name__ == "__main__":
    main(sys.argv)
