"""Why the service could not start, in one sentence, and how its start is told."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class StartupError(Exception):
    """The service cannot start; the message is one line that says what to do. The CLI exits with 2."""


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM while something starts or runs; leaving its `with` stops it."""


Say = Callable[[str], None]


def say_nothing(_: str) -> None:
    """The `Say` of a caller that does not want to hear."""


class Steps:
    """Tells each part of a start with the seconds it took."""

    def __init__(self, say: Say = say_nothing) -> None:
        self._say = say
        self._began_s = time.monotonic()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        began_s = time.monotonic()
        yield
        self._say(f"{name}: {time.monotonic() - began_s:.1f} s")

    def tell(self, name: str) -> None:
        """Something is done; the seconds are those since the start."""
        self._say(f"{name}: up after {self.elapsed_s:.1f} s")

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._began_s


class Signals:
    """SIGINT and SIGTERM raise Interrupted once; after that, and while stopping, they do nothing."""

    _NUMBERS = (signal.SIGINT, signal.SIGTERM)

    def __enter__(self) -> Signals:
        if threading.current_thread() is not threading.main_thread():
            raise StartupError("the local stack must be started from the main thread")
        self._before = {number: signal.getsignal(number) for number in self._NUMBERS}
        self.install()
        return self

    def install(self) -> None:
        for number in self._NUMBERS:
            signal.signal(number, self._interrupt)

    def ignore(self) -> None:
        for number in self._NUMBERS:
            signal.signal(number, signal.SIG_IGN)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.ignore()
        raise Interrupted(signal.Signals(number).name)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
