"""The ledger in memory: the same rules as plain Python, for tests and trials in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from policies.amounts import MAX_TOKENS, NOTHING, UNITS, Amount, Unit
from policies.errors import BudgetDenied, LeaseNotOpen
from policies.ledger import Gauge, Scopes, account_of, check_account, flat
from policies.store import milliseconds

State = Literal["open", "expired", "settled", "released"]
Key = tuple[str, str, str, datetime]  # account, scope, window, edge


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
    used: dict[Unit, int] = field(default_factory=lambda: dict.fromkeys(UNITS, 0))
    held: dict[Unit, int] = field(default_factory=lambda: dict.fromkeys(UNITS, 0))

    def left(self, unit: Unit, limit: int) -> int:
        return max(0, limit - self.used[unit] - self.held[unit])


@dataclass(slots=True)
class _Lease:
    state: State
    reserved: Amount = NOTHING
    checkpoint: Amount = NOTHING
    charged: Amount = NOTHING
    expires_s: float = 0.0
    windows: list[tuple[Key, Mapping[Unit, int]]] = field(default_factory=list)
    parts: set[str] = field(default_factory=set)


class InMemoryLedger:
    """One process's ledger; `now_s` gives the seconds since 1970. Nothing in it awaits, so it is atomic.

    It forgets nothing: old leases and windows stay in memory.
    """

    def __init__(self, now_s: Callable[[], float] = time.time) -> None:
        self._now_s = now_s
        self._budgets: dict[Key, _Budget] = {}
        self._leases: dict[str, _Lease] = {}
        self._open: dict[str, _Lease] = {}

    async def reserve(
        self, lease_id: str, account: str, scopes: Scopes, amount: Amount, ttl_s: float
    ) -> int | None:
        check_account(lease_id, account)
        windows, expires_s = self._now(account, scopes), self._after(ttl_s)
        self._sweep()
        lease = self._leases.get(lease_id)
        if lease is None:
            lease = _Lease("open", amount, expires_s=expires_s, windows=windows)
            self._check(lease, amount)
            self._leases[lease_id] = self._open[lease_id] = lease
            self._hold(lease, amount)
        elif lease.state != "open":
            raise LeaseNotOpen(lease_id, lease.state)
        return self._left(lease)

    async def extend(self, lease_id: str, extra: Amount, *, part: str = "") -> int | None:
        self._sweep()
        lease = self._leases.get(lease_id)
        if lease is None or lease.state != "open":
            raise LeaseNotOpen(lease_id, lease.state if lease else "unknown")
        if not (part and part in lease.parts):
            self._check(lease, extra)
            self._hold(lease, extra)
            lease.reserved += extra
            lease.parts.add(part)
        return self._left(lease)

    async def checkpoint(self, lease_id: str, used: Amount, ttl_s: float) -> Amount | None:
        expires_s = self._after(ttl_s)
        self._sweep()
        lease = self._leases.get(lease_id)
        if lease is None:
            return None
        if lease.state == "open":
            lease.checkpoint = lease.checkpoint.at_least(used)
            lease.expires_s = expires_s
            return lease.checkpoint
        if lease.state == "expired":
            self._charge(lease, lease.charged.at_least(used))
        return None

    async def settle(self, lease_id: str, used: Amount, *, exact: bool = False) -> int | None:
        self._sweep()
        lease = self._leases.get(lease_id)
        if lease is None or lease.state == "released":
            raise LeaseNotOpen(lease_id, lease.state if lease else "unknown")
        if not exact:
            used = used.at_least(lease.checkpoint).at_least(lease.charged)
        if lease.state == "open":
            self._close(lease, "settled", used)
        elif lease.state == "expired":
            self._charge(lease, used)
            lease.state = "settled"
        return self._left(lease)

    async def release(self, lease_id: str) -> None:
        account_of(lease_id)
        self._sweep()
        lease = self._leases.setdefault(lease_id, _Lease("released"))
        if lease.state == "open":
            if lease.checkpoint:
                raise LeaseNotOpen(lease_id, "spent")
            self._close(lease, "released", NOTHING)
        elif lease.charged:
            raise LeaseNotOpen(lease_id, "spent" if lease.state == "expired" else lease.state)
        elif lease.state == "expired":
            lease.state = "released"

    async def peek(self, account: str, scopes: Scopes) -> tuple[Gauge, ...]:
        self._sweep()
        gauges = []
        for key, limits in self._now(account, scopes):
            budget = self._budgets.get(key, _Budget())
            reset_s = key[3].timestamp() - self._now_s()
            gauges += [
                Gauge(key[1], key[2], budget.used[unit], budget.held[unit], limits.get(unit), reset_s, unit)
                for unit in UNITS
            ]
        return tuple(gauges)

    # -- the rules

    def _now(self, account: str, scopes: Scopes) -> list[tuple[Key, Mapping[Unit, int]]]:
        now = datetime.fromtimestamp(self._now_s(), UTC)
        return [
            ((account, scope, window, edge_of(window, now)), limits) for scope, window, limits in flat(scopes)
        ]

    def _after(self, ttl_s: float) -> float:
        return self._now_s() + milliseconds("ttl_s", ttl_s) / 1000.0

    def _sweep(self) -> None:
        for lease_id, lease in list(self._open.items()):
            if lease.state == "open" and lease.expires_s <= self._now_s():
                self._close(lease, "expired", lease.checkpoint)
            if lease.state != "open":
                del self._open[lease_id]

    def _close(self, lease: _Lease, state: State, charge: Amount) -> None:
        for budget in self._each(lease):
            for unit in UNITS:
                budget.held[unit] = max(0, budget.held[unit] - getattr(lease.reserved, unit))
        self._charge(lease, charge)
        lease.state = state

    def _hold(self, lease: _Lease, more: Amount) -> None:
        for budget in self._each(lease):
            for unit in UNITS:
                budget.held[unit] = min(MAX_TOKENS, budget.held[unit] + getattr(more, unit))

    def _charge(self, lease: _Lease, charge: Amount) -> None:
        """Make `charge` what the lease is charged in all."""
        for budget in self._each(lease):
            for unit in UNITS:
                more = getattr(charge, unit) - getattr(lease.charged, unit)
                budget.used[unit] = min(MAX_TOKENS, max(0, budget.used[unit] + more))
        lease.charged = charge

    def _each(self, lease: _Lease) -> list[_Budget]:
        return [self._budgets.setdefault(key, _Budget()) for key, _ in lease.windows]

    def _check(self, lease: _Lease, more: Amount) -> None:
        """Raises BudgetDenied where `more` does not fit."""
        left: dict[Unit, int] = {}
        short: list[tuple[float, Key, Unit, int]] = []
        for key, limits in lease.windows:
            budget = self._budgets.get(key, _Budget())
            for unit in UNITS:
                if unit not in limits:
                    continue
                here, asked = budget.left(unit, limits[unit]), getattr(more, unit)
                left[unit] = min(here, left.get(unit, here))
                if asked and budget.used[unit] + budget.held[unit] + asked > limits[unit]:
                    short.append((here / asked, key, unit, here))
        if short:
            _, key, unit, here = min(short, key=lambda item: item[0])
            edge_s = max(key[3].timestamp() for _, key, _, _ in short)
            raise BudgetDenied(key[1], key[2], here, max(0.0, edge_s - self._now_s()), unit, left)

    def _left(self, lease: _Lease) -> int | None:
        now = datetime.fromtimestamp(self._now_s(), UTC)
        left = []
        for (account, scope, window, _), limits in lease.windows:
            budget = self._budgets.get((account, scope, window, edge_of(window, now)), _Budget())
            if "tokens" in limits:
                left.append(budget.left("tokens", limits["tokens"]))
        return min(left, default=None)
