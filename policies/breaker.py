"""A circuit breaker: while a store does not answer, whoever asks it is told so at once.

    closed --(failures in a row)--> open --(a probe succeeds)--> closed

While it is open nothing reaches the store but one probe about every half second, which the breaker makes
itself: no request is spent on finding out, and no herd falls upon a store that comes back.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

OPENS_AFTER = 3
TIMEOUT_WEIGHT = 2  # each costs its callers the whole timeout, so two are enough
PROBE_EVERY_S = 0.5
JITTER = 0.2


class StoreResting(ConnectionError):
    """The breaker is open: the command was not sent."""


class Breaker:
    """For one event loop. `probe` asks the store for what its users need, and returns the error that it met.

    Logs one line when it opens and one when it closes. `name` is what the store is called in them.
    """

    def __init__(
        self,
        name: str,
        probe: Callable[[], Awaitable[Exception | None]],
        *,
        opens_after: int = OPENS_AFTER,
        probe_every_s: float = PROBE_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._probe = probe
        self._opens_after = opens_after
        self._probe_every_s = probe_every_s
        self._clock = clock
        self._failures = 0
        self._opened_s = 0.0
        self._probing: asyncio.Task[None] | None = None
        self.probes = 0

    @property
    def open(self) -> bool:
        return self._probing is not None

    def check(self) -> None:
        """Raise StoreResting while it is open."""
        if self.open:
            raise StoreResting(f"{self._name} does not answer; it is asked again every half second")

    def succeeded(self) -> None:
        """The store answered. While it is open only the probe counts: older answers may still come in."""
        if not self.open:
            self._failures = 0

    def failed(self, error: BaseException) -> None:
        """The store did not answer, or said that it cannot serve at all; opens after enough in a row."""
        if self.open:
            return
        self._failures += TIMEOUT_WEIGHT if "timeout" in type(error).__name__.lower() else 1
        if self._failures >= self._opens_after:
            self._opened_s = self._clock()
            self._probing = asyncio.create_task(self._until_it_answers())
            log.error(
                "%s does not answer (%s); requests go by `on_store_error` until it does",
                self._name,
                said(error),
            )

    async def aclose(self) -> None:
        """End the probing."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)
            self._probing = None

    async def _until_it_answers(self) -> None:
        while True:
            # Replicas that opened together must not knock together.
            await asyncio.sleep(self._probe_every_s * (1 + JITTER * (2 * random.random() - 1)))
            self.probes += 1
            error = await self._probe()
            if error is not None:
                log.debug("%s still does not answer (%s)", self._name, said(error))
                continue
            self._failures = 0
            self._probing = None
            log.warning("%s answers again after %.1f s", self._name, self._clock() - self._opened_s)
            return


def said(error: BaseException) -> str:
    """The error's kind and the first words of what a server says; never an address or a password."""
    code = getattr(error, "status_code", None) or str(error).split(" ", 1)[0]
    kind = type(error).__name__
    return f"{kind}: {code}" if isinstance(code, str) and code.isalpha() and code.isupper() else kind
