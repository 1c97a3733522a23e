"""The rate limits in memory: the same rules as plain Python, for tests and while the store is away."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from policies.errors import LimitExceeded
from policies.limits import LimitScopes, LimitUsage, limited, tightest_usage
from policies.store import milliseconds, whole

MINUTE_US = 60_000_000
TOLERANCE_US = 1
DEBT_US = 3_600_000_000  # as in gcra.lua
CONCURRENCY_RETRY_US = 1_000_000.0  # nobody knows when a request ends
ENDED_TTL_US = 60_000_000
SWEEP_EVERY = 1024


@dataclass(slots=True)
class _Bucket:
    """GCRA: how far ahead of `at_us` the admitted units lie."""

    at_us: float = 0.0
    ahead_us: float = 0.0

    def leak(self, now_us: float) -> float:
        """Up to `now_us`; a clock that steps back lets nobody in twice."""
        self.ahead_us = max(0.0, self.ahead_us - max(0.0, now_us - self.at_us))
        self.at_us = now_us
        return self.ahead_us

    def wait_us(self, units: int, limit: int) -> float | None:
        """None where waiting cannot help."""
        if units > limit:
            return None
        wait = self.ahead_us + units * MINUTE_US / limit - MINUTE_US
        return wait if wait > TOLERANCE_US else 0.0

    def left(self, limit: int) -> int:
        return max(0, math.floor((MINUTE_US - self.ahead_us + TOLERANCE_US) * limit / MINUTE_US))


@dataclass(slots=True)
class _Admission:
    """`counted` is what each scope was charged, None where it has no token limit; ended: no scopes."""

    expires_us: float
    counted: list[int | None] = field(default_factory=list)
    ended: bool = False


class MemoryLimits:
    """One process's limits (`policies.limits.RateLimits`); `now_s` gives the seconds since 1970.

    Nothing in it awaits, so it is atomic. What has expired is swept now and then.
    """

    def __init__(self, now_s: Callable[[], float] = time.time) -> None:
        self._now_s = now_s
        self._buckets: dict[tuple[str, str, str], _Bucket] = {}
        self._slots: dict[tuple[str, str], dict[str, float]] = {}
        self._admissions: dict[tuple[str, str], _Admission] = {}
        self._calls = 0

    async def admit(
        self, tenant: str, scopes: LimitScopes, *, slot_id: str, tokens: int, least_tokens: int, ttl_s: float
    ) -> LimitUsage:
        """As `RateLimits` says."""
        ttl_us = milliseconds("ttl_s", ttl_s) * 1000.0
        whole("tokens", tokens)
        whole("least_tokens", least_tokens)
        scopes, now = limited(scopes), self._now_us()
        if not scopes:
            return LimitUsage()
        self._sweep(now)
        known = self._admissions.get((tenant, slot_id))
        if known is not None and known.expires_us > now:
            return self._usage(tenant, scopes)
        worst: tuple[float, str, str] | None = None
        counted: list[int | None] = []
        for scope, limits in scopes:
            waits: list[tuple[str, float | None]] = []
            if limits.concurrency is not None:
                full = len(self._taken(tenant, scope, now)) >= limits.concurrency
                waits.append(("concurrency", CONCURRENCY_RETRY_US if full else 0.0))
            if (rpm := limits.requests_per_minute) is not None:
                waits.append(("requests", self._bucket(tenant, scope, "requests").wait_us(1, rpm)))
            counted.append(None)
            if (tpm := limits.tokens_per_minute) is not None:
                counted[-1] = cost = max(least_tokens, min(tokens, tpm))
                waits.append(("tokens", self._bucket(tenant, scope, "tokens").wait_us(cost, tpm)))
            for kind, wait in waits:
                length = math.inf if wait is None else wait
                if length > (worst[0] if worst else 0.0):
                    worst = (length, kind, scope)
        if worst is not None:
            retry_s = None if worst[0] == math.inf else math.ceil(worst[0]) / 1e6
            raise LimitExceeded(worst[1], retry_s, self._usage(tenant, scopes), worst[2])
        for (scope, limits), cost_ in zip(scopes, counted, strict=True):
            self._add(tenant, scope, "requests", 1, limits.requests_per_minute)
            self._add(tenant, scope, "tokens", cost_ or 0, limits.tokens_per_minute)
            if limits.concurrency is not None:
                self._taken(tenant, scope, now)[slot_id] = now + ttl_us
        self._admissions[tenant, slot_id] = _Admission(now + ttl_us, counted)
        return self._usage(tenant, scopes)

    async def leave(self, tenant: str, scopes: LimitScopes, slot_id: str, *, tokens: int | None) -> None:
        """As `RateLimits` says."""
        if tokens is not None:
            whole("tokens", tokens)
        scopes, now = limited(scopes), self._now_us()
        if not scopes:
            return
        for scope, _ in scopes:
            self._taken(tenant, scope, now).pop(slot_id, None)
        known = self._admissions.get((tenant, slot_id))
        if known is None or known.expires_us <= now:
            self._admissions[tenant, slot_id] = _Admission(now + ENDED_TTL_US, ended=True)
        elif not known.ended:
            del self._admissions[tenant, slot_id]
            for (scope, limits), was in zip(scopes, known.counted, strict=False):
                if was is not None and tokens is not None:
                    self._add(tenant, scope, "tokens", tokens - was, limits.tokens_per_minute)

    # -- the rules

    def _now_us(self) -> float:
        return float(round(self._now_s() * 1e6))

    def _bucket(self, tenant: str, scope: str, what: str) -> _Bucket:
        known = self._buckets.setdefault((tenant, scope, what), _Bucket())
        known.leak(self._now_us())
        return known

    def _taken(self, tenant: str, scope: str, now: float) -> dict[str, float]:
        slots = self._slots.setdefault((tenant, scope), {})
        for slot in [slot for slot, expires in slots.items() if expires <= now]:
            del slots[slot]
        return slots

    def _add(self, tenant: str, scope: str, what: str, units: int, limit: int | None) -> None:
        if limit is None or units == 0:
            return
        known = self._bucket(tenant, scope, what)
        ahead = known.ahead_us + units * MINUTE_US / limit
        known.ahead_us = max(0.0, min(ahead, max(known.ahead_us, DEBT_US)))

    def _usage(self, tenant: str, scopes: LimitScopes) -> LimitUsage:
        states: list[list[float]] = []
        for scope, limits in scopes:
            states.append([])
            for what, limit in (
                ("requests", limits.requests_per_minute),
                ("tokens", limits.tokens_per_minute),
            ):
                known = self._bucket(tenant, scope, what)
                states[-1] += [-1, 0] if limit is None else [known.left(limit), math.ceil(known.ahead_us)]
        return tightest_usage(scopes, states)

    def _sweep(self, now: float) -> None:
        self._calls += 1
        if self._calls % SWEEP_EVERY:
            return
        self._admissions = {k: one for k, one in self._admissions.items() if one.expires_us > now}
        self._buckets = {k: one for k, one in self._buckets.items() if one.leak(now) > 0}
        for tenant, scope in list(self._slots):
            if not self._taken(tenant, scope, now):
                del self._slots[tenant, scope]
