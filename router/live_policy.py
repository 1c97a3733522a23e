"""The policy in force on one replica: it follows what is published, and keeps the last good one.

Every change of the small state in the store is read, checked and swapped in between requests. Nothing that is
found there, and nothing that fails here, ends the service: one log line says what was not taken and why.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from policies.errors import PolicyError, StoreUnavailable
from policies.keys import KeyRing
from policies.published import Published, shown
from policies.publishing import published_policy
from policies.schema import Policy
from policies.versions import Report, Versions
from router.ruling import Ruling, Trial
from router.shadow import Shadow

log = logging.getLogger(__name__)

# Of a whole round. The store's commands have shorter ones; a busy machine is slow over a large policy.
LOOK_TIMEOUT_S = 30.0
REPORT_EVERY_S = 1.0
RETRY_S = 5.0
MAX_TROUBLE_CHARS = 500

Runnable = Callable[[Policy], Awaitable[tuple[Policy, Mapping[str, str]]]]


@dataclass(frozen=True, slots=True)
class Boot:
    """The app config's policy: what decides until one is published. `text` is what its file says."""

    policy: Policy
    left_out: tuple[str, ...] = ()
    text: str | None = None


@dataclass(frozen=True, slots=True)
class _Loaded:
    policy: Policy
    left_out: tuple[str, ...]


class LivePolicy:
    """Follows `versions` and hands each new `Ruling` to `apply`. For one event loop.

    `runnable` leaves out the arms that no tier can run; `local_keys` are keys beside the policy's own.
    """

    def __init__(
        self,
        versions: Versions,
        boot: Boot,
        apply: Callable[[Ruling], None],
        *,
        runnable: Runnable,
        replica: str,
        local_keys: Mapping[str, tuple[str, str]] | None = None,
        poll_s: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._versions = versions
        self._boot = boot
        self._apply = apply
        self._runnable = runnable
        self._replica = replica
        self._local_keys = local_keys
        self._poll_s = poll_s
        self._clock = clock
        self._seen: bytes | None = None
        self._state = Published()
        self._loaded: dict[str, _Loaded] = {}
        self._current: str | None = None
        self._ruling = Ruling(boot.policy, KeyRing(boot.policy, local_keys))
        self._problem: str | None = None
        self._trouble: str | None = None
        self._retry_at_s = 0.0
        self._report_at_s = 0.0
        self._told_boot = False
        self._unheard = False
        self._task: asyncio.Task[None] | None = None

    @property
    def ruling(self) -> Ruling:
        return self._ruling

    @property
    def trouble(self) -> str | None:
        """What is not followed right now, in one sentence; None where all is."""
        return self._trouble

    @property
    def handled(self) -> bytes | None:
        """The raw state that was looked at last, taken or not."""
        return self._seen

    async def start(self) -> None:
        """Look once, so that a replica begins with what is published, and follow from then on."""
        await self.look()
        if self._current is None and self._state.number == 0:
            log.info("the app config's policy %s decides; nothing is published", self._boot.policy.version)
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
            # Whatever it is, requests are served by the last good policy, and the next round tries again.
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
                log.exception("a published policy cannot be read")
                problem = f"reading it failed ({type(error).__name__})"
            self._seen, self._problem = raw, problem
            self._retry_at_s, self._report_at_s = self._clock() + RETRY_S, 0.0
        self._note(self._problem)

    async def _take(self, raw: bytes) -> str | None:
        """Each part on its own: a canary that cannot be read ends, the last good current one stays.

        Returns what could not be taken. Raises StoreUnavailable, and PolicyError where none of it can.
        """
        state, problems = self._versions.opened(raw), list[str]()
        if not raw and self._state.number:
            raise PolicyError("what was published is gone from the store")
        if state.at_ms < self._state.at_ms:
            raise PolicyError("the store has an older publication than the one that was followed")
        current = await self._load(state.current, problems)
        canary = await self._load(state.canary.version, problems) if state.canary else None
        shadow = await self._load(state.shadow, problems) if state.shadow else None
        policy = current.policy if current else self._ruling.policy
        trial = Trial(state.canary, canary.policy) if state.canary and canary else None
        ruling = Ruling(policy, KeyRing(policy, self._local_keys), trial, self._shadow(shadow))
        before, self._ruling, self._state = self._ruling, ruling, state
        if current:
            self._current = state.current
        self._apply(ruling)
        needed = {self._current, *state.versions()}
        self._loaded = {version: each for version, each in self._loaded.items() if version in needed}
        if _versions_of(before) != _versions_of(ruling):
            log.info("policy in force: %s (change %d)", self._described(), state.number)
        return "; ".join(problems) or None

    async def _load(self, version: str | None, problems: list[str]) -> _Loaded | None:
        """The policy of a version, None where it cannot be taken. Raises StoreUnavailable."""
        if version is None:
            return _Loaded(self._boot.policy, self._boot.left_out)
        if version in self._loaded:
            return self._loaded[version]
        try:
            text = await self._versions.document(version)
            whole = await asyncio.to_thread(published_policy, text, version)
            policy, lacks = await self._runnable(whole)
        except StoreUnavailable:
            raise
        except PolicyError as error:
            problems.append(str(error))
            return None
        for arm, why in lacks.items():
            log.warning("arm %s of policy %s is left out: %s", arm, version, why)
        self._loaded[version] = _Loaded(policy, tuple(lacks))
        return self._loaded[version]

    def _shadow(self, loaded: _Loaded | None) -> Shadow | None:
        """A new one begins to count; the one that goes on keeps its count."""
        if loaded is None:
            return None
        before = self._ruling.shadow
        if before is not None and before.policy.version == loaded.policy.version:
            return before
        return Shadow(loaded.policy)

    def _note(self, trouble: str | None) -> None:
        """One line when trouble begins, changes or ends."""
        if trouble == self._trouble:
            return
        self._trouble = trouble
        if trouble is None:
            log.info("the published policy is followed again")
        else:
            log.warning("not taken: %s; policy %s stays in force", trouble, self._ruling.policy.version)

    def _described(self) -> str:
        state, policy = self._state, self._ruling.policy
        parts = [
            f"{policy.version} ({policy.name}, {'app config' if self._current is None else 'published'})"
        ]
        if self._ruling.trial is not None and state.canary is not None:
            parts.append(f"canary {state.canary.version} for {state.canary.percent:g} % of keys")
        if self._ruling.shadow is not None:
            parts.append(f"shadow {shown(state.shadow)}")
        return ", ".join(parts)

    async def _tell(self) -> None:
        """Report now and then. A store that takes nothing (full, read-only) may still be followed."""
        if self._clock() < self._report_at_s:
            return
        self._report_at_s = self._clock() + REPORT_EVERY_S
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                await self._report()
            self._unheard = False
        except (PolicyError, TimeoutError) as error:
            if not self._unheard and self._trouble is None:
                log.warning("this replica cannot report which policy it runs: %s", error)
            self._unheard = True

    async def _report(self) -> None:
        ruling, boot = self._ruling, self._boot
        current = self._loaded.get(self._current) if self._current is not None else None
        report = Report(
            replica=self._replica,
            number=self._state.number,
            boot=boot.policy.version,
            current=ruling.policy.version,
            canary=ruling.trial.policy.version if ruling.trial else None,
            shadow=ruling.shadow.policy.version if ruling.shadow else None,
            left_out=(current.left_out if current else boot.left_out)[:100],
            trouble=None if self._trouble is None else self._trouble[:MAX_TROUBLE_CHARS],
        )
        await self._versions.report(report)
        if ruling.shadow is not None:
            await self._versions.tally(ruling.shadow.policy.version, self._replica, ruling.shadow.tally)
        if not self._told_boot and boot.text is not None:
            await self._versions.keep(boot.policy.version, boot.text)  # so that it can be shown and compared
            self._told_boot = True


def _versions_of(ruling: Ruling) -> tuple[object, ...]:
    trial, shadow = ruling.trial, ruling.shadow
    return (
        ruling.policy.version,
        trial and (trial.rule, trial.policy.version),
        shadow and shadow.policy.version,
    )
