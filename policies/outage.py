"""What `on_store_error` allows while the store is away: degrade counts here, allow counts heads only.

`OutageLedger` is a ledger in memory, capped by what the budgets had left when they were last seen. What is
spent on it is owed to the store and told to it when it is back, by the same lease ids.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from policies.amounts import NOTHING, Amount, Unit
from policies.errors import LeaseNotOpen, StoreUnavailable
from policies.later import Later
from policies.ledger import Gauge, Ledger, Scopes
from policies.memory_ledger import InMemoryLedger

Windows = Mapping[str, Mapping[Unit, int]]

NO_LIMITS: Mapping[Unit, int] = {}
LOOK_EVERY_S = 1.0
LOCAL_TTL_S = 86_400.0  # nothing but this process can lose a lease that it holds in memory
GRACE_S = 2.0  # a tier that was left by its caller knows best what it spent, and tells it within this time
UNACCOUNTED_AT_MOST = 16


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a window had left when it was last seen; after `until_s` it is another window."""

    left: int
    until_s: float


@dataclass(slots=True)
class _Account:
    """One account's budgets in this process; a new one whenever they were seen and nothing is owed."""

    ledger: InMemoryLedger
    scopes: dict[str, Windows] = field(default_factory=dict)  # all that were asked about
    seen: dict[tuple[str, str, Unit], _Seen] = field(default_factory=dict)
    looked_s: float = float("-inf")
    owing: int = 0


@dataclass(slots=True)
class _Debt:
    """A lease of the outage; `used` is None while it runs."""

    lease_id: str
    account: str
    scopes: Scopes
    held: Amount
    ttl_s: float
    used: Amount | None = None
    exact: bool = True
    opened: bool = False
    queued: bool = False

    @property
    def what(self) -> str:
        return f"what lease {self.lease_id} spent while the store was away"


class OutageLedger:
    """A `Ledger` for the time in which the real one, `store`, does not answer.

    `share` is the part of what was left that this replica may spend: 1 / replicas, so that all of them
    together stay within it. A replica that has not seen a budget takes its share of the whole. What is spent
    is lost only if the process ends before the store is back.
    """

    def __init__(
        self, store: Ledger, later: Later, *, share: float = 1.0, now_s: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._later = later
        self._share = share
        self._now_s = now_s
        self._accounts: dict[str, _Account] = {}
        self._debts: dict[str, _Debt] = {}

    async def look(self, account: str, scopes: Scopes) -> None:
        """Remember what is left, at most once a second; the store is asked only for that."""
        known = self._account(account)
        known.scopes.update(scopes)
        now_s = self._now_s()
        if now_s - known.looked_s < LOOK_EVERY_S:
            return
        known.looked_s = now_s
        try:
            gauges = await self._store.peek(account, list(known.scopes.items()))
        except StoreUnavailable:
            return
        if known.owing:
            return  # the store does not know all yet
        seen = {
            (gauge.scope, gauge.window, gauge.unit): _Seen(gauge.remaining, now_s + gauge.reset_s)
            for gauge in gauges
            if gauge.remaining is not None
        }
        self._accounts[account] = _Account(InMemoryLedger(self._now_s), known.scopes, seen, now_s)

    async def reserve(
        self, lease_id: str, account: str, scopes: Scopes, amount: Amount, ttl_s: float
    ) -> int | None:
        known = self._account(account)
        known.scopes.update(scopes)
        capped = self._capped(known, scopes)
        left = await known.ledger.reserve(lease_id, account, capped, amount, LOCAL_TTL_S)
        if lease_id not in self._debts:
            self._debts[lease_id] = _Debt(lease_id, account, scopes, amount, ttl_s)
            known.owing += 1
            self._tell(self._debts[lease_id])
        return left

    async def extend(self, lease_id: str, extra: Amount, *, part: str = "") -> int | None:
        debt = self._debt(lease_id)
        left = await self._account(debt.account).ledger.extend(lease_id, extra, part=part)
        debt.held += extra
        return left

    async def checkpoint(self, lease_id: str, used: Amount, ttl_s: float) -> Amount | None:
        debt = self._debt(lease_id)
        return await self._account(debt.account).ledger.checkpoint(lease_id, used, LOCAL_TTL_S)

    async def settle(self, lease_id: str, used: Amount, *, exact: bool = False) -> int | None:
        debt = self._debt(lease_id)
        left = await self._account(debt.account).ledger.settle(lease_id, used, exact=exact)
        if debt.used is None:
            debt.used, debt.exact = used, exact
            self._tell(debt)
        return left

    async def release(self, lease_id: str) -> None:
        debt = self._debt(lease_id)
        await self._account(debt.account).ledger.release(lease_id)
        if debt.used is None:
            debt.used = NOTHING
            self._tell(debt)

    async def peek(self, account: str, scopes: Scopes) -> tuple[Gauge, ...]:
        known = self._account(account)
        return await known.ledger.peek(account, self._capped(known, scopes))

    # -- the cap

    def _account(self, account: str) -> _Account:
        if account not in self._accounts:
            self._accounts[account] = _Account(InMemoryLedger(self._now_s))
        return self._accounts[account]

    def _capped(self, known: _Account, scopes: Scopes) -> Scopes:
        return [
            (
                scope,
                {
                    window: {unit: self._cap(known, (scope, window, unit), limits[unit]) for unit in limits}
                    for window, limits in windows.items()
                },
            )
            for scope, windows in scopes
        ]

    def _cap(self, known: _Account, where: tuple[str, str, Unit], limit: int) -> int:
        seen = known.seen.get(where)
        if seen is not None and self._now_s() < seen.until_s:
            limit = min(limit, seen.left)
        return int(limit * self._share)

    # -- what is owed

    def _debt(self, lease_id: str) -> _Debt:
        try:
            return self._debts[lease_id]
        except KeyError:
            raise LeaseNotOpen(lease_id, "unknown") from None

    def _tell(self, debt: _Debt) -> None:
        if not debt.queued:
            debt.queued = True
            self._later.put(debt.what, partial(self._told, debt))

    async def _told(self, debt: _Debt) -> None:
        """Open the lease in the store, and settle it when what it spent is known.

        The hold is told as well: requests that come after the store is back must not spend it again. It is
        held without limits, which have been checked here.
        """
        if not debt.opened and (debt.used != NOTHING or not debt.exact):
            unlimited: Scopes = [
                (scope, {window: {} for window in windows}) for scope, windows in debt.scopes
            ]
            amount = debt.held if debt.used is None or not debt.exact else debt.used
            with suppress(LeaseNotOpen):  # it was opened, and settled by a tier or expired since
                await self._store.reserve(debt.lease_id, debt.account, unlimited, amount, debt.ttl_s)
            debt.opened = True
            if not debt.exact:
                self._later.put(debt.what, partial(self._told, debt), wait_s=GRACE_S)
                return
        if debt.used is not None:
            with suppress(LeaseNotOpen):
                if debt.opened:
                    await self._store.settle(debt.lease_id, debt.used, exact=debt.exact)
            if self._debts.pop(debt.lease_id, None) is not None:
                self._account(debt.account).owing -= 1
        debt.queued = False


class Unaccounted:
    """Requests that `on_store_error: allow` lets run without a budget, a few of each tenant at a time."""

    def __init__(self) -> None:
        self._running: Counter[str] = Counter()

    def enter(self, tenant: str, at_most: int | None) -> None:
        """Count one more. Raises StoreUnavailable where `at_most` (16 if None) run already."""
        if self._running[tenant] >= (at_most or UNACCOUNTED_AT_MOST):
            raise StoreUnavailable("the budget store does not answer, and enough requests run without it")
        self._running[tenant] += 1

    def leave(self, tenant: str) -> None:
        self._running[tenant] -= 1
