"""The policy in force on one replica: it follows what is published, and keeps the last good one."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from policies.errors import PolicyError, StoreUnavailable
from policies.keys import KeyRing
from policies.published import shown
from policies.publishing import published_policy
from policies.schema import Policy
from policies.versions import Report, Versions
from router.following import Follower
from router.ruling import Ruling, Trial
from router.shadow import Shadow

log = logging.getLogger(__name__)

MAX_LEFT_OUT = 100

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


class LivePolicy(Follower):
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
        super().__init__(versions, replica=replica, poll_s=poll_s, clock=clock)
        self._boot = boot
        self._apply = apply
        self._runnable = runnable
        self._local_keys = local_keys
        self._loaded: dict[str, _Loaded] = {}
        self._current: str | None = None
        self._ruling = Ruling(boot.policy, KeyRing(boot.policy, local_keys))

    @property
    def ruling(self) -> Ruling:
        return self._ruling

    @property
    def in_force(self) -> str:
        return self._ruling.policy.version

    async def _take(self, raw: bytes) -> str | None:
        """Each part on its own: a canary that cannot be read ends, the last good current one stays."""
        state, problems = self._opened(raw), list[str]()
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

    def _report(self) -> Report:
        ruling, boot = self._ruling, self._boot
        current = self._loaded.get(self._current) if self._current is not None else None
        return Report(
            replica=self._replica,
            number=self._state.number,
            boot=boot.policy.version,
            current=ruling.policy.version,
            canary=ruling.trial.policy.version if ruling.trial else None,
            shadow=ruling.shadow.policy.version if ruling.shadow else None,
            left_out=(current.left_out if current else boot.left_out)[:MAX_LEFT_OUT],
        )

    def _boot_text(self) -> tuple[str, str] | None:
        return None if self._boot.text is None else (self._boot.policy.version, self._boot.text)

    async def _send(self, report: Report) -> None:
        await super()._send(report)
        if (shadow := self._ruling.shadow) is not None:
            await self._versions.tally(shadow.policy.version, self._replica, shadow.tally)


def _versions_of(ruling: Ruling) -> tuple[object, ...]:
    trial, shadow = ruling.trial, ruling.shadow
    return (
        ruling.policy.version,
        trial and (trial.rule, trial.policy.version),
        shadow and shadow.policy.version,
    )
