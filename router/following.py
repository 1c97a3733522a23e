"""Following what is published: looks twice a second, reports, and keeps what is in force whatever comes.

Every change of the small state in the store is read, checked and swapped in between requests. Nothing that is
found there, and nothing that fails here, ends the service: one log line says what was not taken and why.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress

from policies.errors import PolicyError, StoreUnavailable
from policies.published import Published
from policies.versions import Report, Versions

log = logging.getLogger(__name__)

# Of a whole round. The store's commands have shorter ones; a busy machine is slow over a large policy.
LOOK_TIMEOUT_S = 30.0
REPORT_EVERY_S = 1.0
RETRY_S = 5.0
MAX_TROUBLE_CHARS = 500


class Follower(ABC):
    """One replica's way to follow one shelf. For one event loop.

    `trouble` is what is not followed right now, in one sentence; None where all is. `handled` is the raw
    state that was looked at last, taken or not.
    """

    def __init__(
        self,
        versions: Versions,
        *,
        replica: str,
        poll_s: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._versions = versions
        self._replica = replica
        self._poll_s = poll_s
        self._clock = clock
        self._state = Published()
        self._seen: bytes | None = None
        self._problem: str | None = None
        self._trouble: str | None = None
        self._retry_at_s = 0.0
        self._report_at_s = 0.0
        self._kept_boot = False
        self._unheard = False
        self._task: asyncio.Task[None] | None = None

    @property
    def trouble(self) -> str | None:
        return self._trouble

    @property
    def handled(self) -> bytes | None:
        return self._seen

    @property
    @abstractmethod
    def in_force(self) -> str:
        """The version that decides here."""

    @abstractmethod
    async def _take(self, raw: bytes) -> str | None:
        """Follow a new state, and return what of it could not be taken.

        Raises StoreUnavailable, and PolicyError where none of it can.
        """

    @abstractmethod
    def _report(self) -> Report:
        """What this replica runs; `trouble` is added."""

    @abstractmethod
    def _boot_text(self) -> tuple[str, str] | None:
        """Version and text of what the app config names, to be shown and compared; None where not known."""

    async def start(self) -> None:
        """Look once, so that a replica begins with what is published, and follow from then on."""
        await self.look()
        if self._state.number == 0:
            shelf = self._versions.shelf
            log.info("the app config's %s %s decides; nothing is published", shelf.noun, self.in_force)
        self._task = asyncio.create_task(self._follow())

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            await self.look()

    async def look(self) -> None:
        """One round: what is published, and this replica's report. Never raises, except CancelledError."""
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                await self._look()
        except (PolicyError, TimeoutError) as error:
            self._note(str(error) or "the store took too long to answer")
        except Exception as error:
            # Whatever it is, requests are served by the last good one, and the next round tries again.
            failure = f"following what is published failed ({type(error).__name__})"
            if failure != self._trouble:
                log.exception(failure)
            self._note(failure)
        await self._tell()

    async def _look(self) -> None:
        raw = await self._versions.raw_state()
        news = raw != self._seen or (self._problem is not None and self._clock() >= self._retry_at_s)
        if news:
            try:
                problem = await self._take(raw)
            except StoreUnavailable:
                raise
            except PolicyError as error:
                problem = str(error)
            except Exception as error:  # a document that breaks the reader must not break it twice a second
                log.exception("a published %s cannot be read", self._versions.shelf.noun)
                problem = f"reading it failed ({type(error).__name__})"
            self._seen, self._problem = raw, problem
            self._retry_at_s, self._report_at_s = self._clock() + RETRY_S, 0.0
        self._note(self._problem)

    def _opened(self, raw: bytes) -> Published:
        """Raises NotSealed, and PolicyError where the store went back in time."""
        state = self._versions.opened(raw)
        if not raw and self._state.number:
            raise PolicyError("what was published is gone from the store")
        if state.at_ms < self._state.at_ms:
            raise PolicyError("the store has an older publication than the one that was followed")
        return state

    def _note(self, trouble: str | None) -> None:
        """One line when trouble begins, changes or ends."""
        if trouble == self._trouble:
            return
        self._trouble = trouble
        noun = self._versions.shelf.noun
        if trouble is None:
            log.info("the published %s is followed again", noun)
        else:
            log.warning("not taken: %s; %s %s stays in force", trouble, noun, self.in_force)

    async def _tell(self) -> None:
        """Report now and then. A store that takes nothing (full, read-only) may still be followed."""
        if self._clock() < self._report_at_s:
            return
        self._report_at_s = self._clock() + REPORT_EVERY_S
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                await self._send(self._report())
            self._unheard = False
        except (PolicyError, TimeoutError) as error:
            if not self._unheard and self._trouble is None:
                noun = self._versions.shelf.noun
                log.warning("this replica cannot report which %s it runs: %s", noun, error)
            self._unheard = True

    async def _send(self, report: Report) -> None:
        trouble = None if self._trouble is None else self._trouble[:MAX_TROUBLE_CHARS]
        await self._versions.report(report.model_copy(update={"trouble": trouble}))
        if not self._kept_boot and (boot := self._boot_text()) is not None:
            await self._versions.keep(*boot)
            self._kept_boot = True
