"""Whether two formulas are equal, asked of worker processes with a hard time limit.

math-verify stops itself by SIGALRM, which works in a main thread alone, and may hang or run out of memory on
what a model writes. So it runs in processes that can be killed, and the event loop only waits for a line.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

WORKER = (sys.executable, "-P", str(Path(__file__).with_name("worker.py")))
VERDICTS_KEPT = 4096
MAX_FORMULA_CHARS = 200
INHERITED = ("PATH", "PYTHONPATH", "LANG", "LD_LIBRARY_PATH")
"""All that a worker sees of the environment: no key and no address is among them."""


class Equivalence:
    """Answers `same(a, b)`; at most `workers` processes, started when first needed.

    A comparison that takes longer than `compare_timeout_s`, or whose worker dies, counts as "not the same",
    and the strings alone decide. Where a worker cannot even be started, none is tried again. Used from one
    event loop; `aclose` ends the processes.
    """

    def __init__(
        self,
        *,
        workers: int = 1,
        compare_timeout_s: float = 2.0,
        start_timeout_s: float = 60.0,
        command: Sequence[str] = WORKER,
    ) -> None:
        self._compare_timeout_s = compare_timeout_s
        self._start_timeout_s = start_timeout_s
        self._command = command
        self._turns = asyncio.Semaphore(workers)
        self._idle: list[Process] = []
        self._busy: set[Process] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._verdicts: OrderedDict[tuple[str, str], bool] = OrderedDict()
        self._broken = False

    async def same(self, left: str, right: str) -> bool:
        """Whether two formulas mean the same; never raises for what they hold."""
        if left == right:
            return True
        if max(len(left), len(right)) > MAX_FORMULA_CHARS:
            return False
        pair = (min(left, right), max(left, right))
        if pair not in self._verdicts:
            async with self._turns:
                if pair not in self._verdicts and not self._broken:
                    self._verdicts[pair] = await self._ask(pair)
        if pair not in self._verdicts:
            return False
        self._verdicts.move_to_end(pair)
        if len(self._verdicts) > VERDICTS_KEPT:
            self._verdicts.popitem(last=False)
        return self._verdicts[pair]

    async def aclose(self) -> None:
        """End the processes. May be called twice; a comparison after it starts anew."""
        workers, self._idle = [*self._idle, *self._busy], []
        for worker in workers:
            self._end(worker)
        await asyncio.gather(*self._ending)

    async def _ask(self, pair: tuple[str, str]) -> bool:
        worker = await self._worker()
        if worker is None:
            return False
        answered = False
        self._busy.add(worker)
        try:
            async with asyncio.timeout(self._compare_timeout_s):
                line = await _exchange(worker, json.dumps(pair))
            answered = line in (b"true\n", b"false\n")
            return line == b"true\n"
        except (TimeoutError, OSError):
            return False
        finally:
            self._busy.discard(worker)
            # One that has not answered, for whatever reason, would give its answer to the next question.
            if answered:
                self._idle.append(worker)
            else:
                self._end(worker)

    async def _worker(self) -> Process | None:
        while self._idle:
            worker = self._idle.pop()
            if worker.returncode is None:
                return worker
        started: Process | None = None
        ready = False
        try:
            started = await asyncio.create_subprocess_exec(
                *self._command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=_environment()
            )
            self._busy.add(started)
            async with asyncio.timeout(self._start_timeout_s):
                ready = await _readline(started) == b"ready\n"
        except (TimeoutError, OSError):
            pass
        finally:
            if started is not None:
                self._busy.discard(started)
                if not ready:
                    self._end(started)
        if not ready:
            self._broken = True
            log.warning("formulas are compared by their spelling alone: is math-verify installed?")
            return None
        return started

    def _end(self, worker: Process) -> None:
        """Kill a worker now; it is reaped by a task, since whoever asked it may be cancelled."""
        with suppress(ProcessLookupError):
            worker.kill()
        reaping = asyncio.ensure_future(_reap(worker))
        self._ending.add(reaping)
        reaping.add_done_callback(self._ending.discard)


async def _reap(worker: Process) -> None:
    if worker.stdout is not None:
        with suppress(OSError):
            while await worker.stdout.read(1 << 16):
                pass
    await worker.wait()


async def _exchange(worker: Process, question: str) -> bytes:
    if worker.stdin is None:
        raise BrokenPipeError
    worker.stdin.write(f"{question}\n".encode())
    await worker.stdin.drain()
    return await _readline(worker)


async def _readline(worker: Process) -> bytes:
    if worker.stdout is None:
        raise BrokenPipeError
    try:
        return await worker.stdout.readline()
    except ValueError as error:  # a line beyond the reader's limit
        raise BrokenPipeError from error


def _environment() -> dict[str, str]:
    return {name: os.environ[name] for name in INHERITED if name in os.environ}
