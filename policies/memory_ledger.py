"""The ledger in memory: the same rules as plain Python, for tests and trials in one process."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from policies.errors import BudgetDenied, LeaseNotOpen
from policies.ledger import Gauge, Scopes
from policies.store import milliseconds, whole

State = Literal["open", "expired", "settled", "released"]
Key = tuple[str, str, str, datetime]  # tenant, scope, window, edge


def edge_of(window: str, now: datetime) -> datetime:
    """When the window that `now` lies in ends."""
    minute = now.replace(second=0, microsecond=0)
    if window == "minute":
        return minute + timedelta(minutes=1)
    day = minute.replace(hour=0, minute=0)
    if window == "day":
        return day + timedelta(days=1)
    return (day.replace(day=1) + timedelta(days=32)).replace(day=1)


@dataclass(slots=True)
class _Budget:
    used: int = 0
    held: int = 0


@dataclass(slots=True)
class _Lease:
    tenant: str
    state: State
    reserved: int = 0
    checkpoint: int = 0
    charged: int = 0
    expires_s: float = 0.0
    windows: list[tuple[Key, int | None]] = field(default_factory=list)
    parts: set[str] = field(default_factory=set)


class InMemoryLedger:
    """One process's ledger; `now_s` gives the seconds since 1970. Nothing in it awaits, so it is atomic.

    It forgets nothing: old leases and windows stay in memory.
    """

    def __init__(self, now_s: Callable[[], float] = time.time) -> None:
        self._now_s = now_s
        self._budgets: dict[Key, _Budget] = {}
        self._leases: dict[str, _Lease] = {}

    async def reserve(
        self, lease_id: str, tenant: str, scopes: Scopes, tokens: int, ttl_s: float
    ) -> int | None:
        if lease_id.partition(":")[0] != tenant:
            raise ValueError(f"lease id {lease_id!r} is not of tenant {tenant!r}; make it with new_lease_id")
        whole("tokens", tokens)
        self._sweep()
        lease = self._leases.get(lease_id)
        if lease is None:
            lease = _Lease(
                tenant, "open", tokens, expires_s=self._after(ttl_s), windows=self._now(tenant, scopes)
            )
            self._check(lease, tokens)
            self._leases[lease_id] = lease
            self._move(lease, 0, tokens)
        elif lease.state != "open":
            raise LeaseNotOpen(lease_id, lease.state)
        return self._left(lease)

    async def extend(self, lease_id: str, extra_tokens: int, *, part: str = "") -> int | None:
        lease = self._open(lease_id)
        if not (part and part in lease.parts):
            self._check(lease, whole("extra_tokens", extra_tokens))
            self._move(lease, 0, extra_tokens)
            lease.reserved += extra_tokens
            lease.parts.add(part)
        return self._left(lease)

    async def checkpoint(self, lease_id: str, used_tokens: int, ttl_s: float) -> int | None:
        whole("used_tokens", used_tokens)
        self._sweep()
        lease = self._leases.get(lease_id)
        if lease is None:
            return None
        if lease.state == "open":
            lease.checkpoint = max(lease.checkpoint, used_tokens)
            lease.expires_s = self._after(ttl_s)
            return lease.checkpoint
        if lease.state == "expired" and used_tokens > lease.charged:
            self._move(lease, used_tokens - lease.charged, 0)
            lease.charged = used_tokens
        return None

    async def settle(self, lease_id: str, used_tokens: int, *, exact: bool = False) -> int | None:
        whole("used_tokens", used_tokens)
        self._sweep()
        lease = self._leases.get(lease_id)
        if lease is None or lease.state == "released":
            raise LeaseNotOpen(lease_id, lease.state if lease else "unknown")
        if not exact:
            used_tokens = max(used_tokens, lease.checkpoint, lease.charged)
        if lease.state == "open":
            self._close(lease, "settled", used_tokens)
        elif lease.state == "expired":
            self._move(lease, used_tokens - lease.charged, 0)
            lease.state, lease.charged = "settled", used_tokens
        return self._left(lease)

    async def release(self, lease_id: str) -> None:
        self._sweep()
        lease = self._leases.setdefault(lease_id, _Lease(lease_id.partition(":")[0], "released"))
        if lease.state == "open":
            if lease.checkpoint:
                raise LeaseNotOpen(lease_id, "spent")
            self._close(lease, "released", 0)
        elif lease.charged:
            raise LeaseNotOpen(lease_id, "spent" if lease.state == "expired" else lease.state)
        elif lease.state == "expired":
            lease.state = "released"

    async def peek(self, tenant: str, scopes: Scopes) -> tuple[Gauge, ...]:
        self._sweep()
        gauges = []
        for key, limit in self._now(tenant, scopes):
            budget = self._budgets.get(key, _Budget())
            reset_s = key[3].timestamp() - self._now_s()
            gauges.append(Gauge(key[1], key[2], budget.used, budget.held, limit, reset_s))
        return tuple(gauges)

    # -- the rules

    def _now(self, tenant: str, scopes: Scopes) -> list[tuple[Key, int | None]]:
        now = datetime.fromtimestamp(self._now_s(), UTC)
        return [
            ((tenant, scope, window, edge_of(window, now)), limit)
            for scope, windows in scopes
            for window, limit in windows.items()
        ]

    def _after(self, ttl_s: float) -> float:
        return self._now_s() + milliseconds("ttl_s", ttl_s) / 1000.0

    def _open(self, lease_id: str) -> _Lease:
        self._sweep()
        lease = self._leases.get(lease_id)
        if lease is None or lease.state != "open":
            raise LeaseNotOpen(lease_id, lease.state if lease else "unknown")
        return lease

    def _sweep(self) -> None:
        for lease in self._leases.values():
            if lease.state == "open" and lease.expires_s <= self._now_s():
                self._close(lease, "expired", lease.checkpoint)

    def _close(self, lease: _Lease, state: State, charge: int) -> None:
        self._move(lease, charge, -lease.reserved)
        lease.state, lease.charged = state, charge

    def _move(self, lease: _Lease, used: int, held: int) -> None:
        for key, _ in lease.windows:
            budget = self._budgets.setdefault(key, _Budget())
            budget.used = max(0, budget.used + used)
            budget.held = max(0, budget.held + held)

    def _check(self, lease: _Lease, tokens: int) -> None:
        short = []
        for key, limit in lease.windows:
            budget = self._budgets.get(key, _Budget())
            if limit is not None and budget.used + budget.held + tokens > limit:
                short.append((max(0, limit - budget.used - budget.held), key))
        if short:
            left, key = min(short, key=lambda item: item[0])
            edge_s = max(edge.timestamp() for _, (_, _, _, edge) in short)
            raise BudgetDenied(key[1], key[2], left, max(0.0, edge_s - self._now_s()))

    def _left(self, lease: _Lease) -> int | None:
        now = datetime.fromtimestamp(self._now_s(), UTC)
        left = []
        for (tenant, scope, window, _), limit in lease.windows:
            budget = self._budgets.get((tenant, scope, window, edge_of(window, now)), _Budget())
            if limit is not None:
                left.append(max(0, limit - budget.used - budget.held))
        return min(left, default=None)
