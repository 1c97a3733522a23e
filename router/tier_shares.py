"""What one request may spend on tiers that have only a share of the tenant's spend.

Beside the request's lease, a capped tier's runs are held by a lease of their own in the tier's scope
(`policies.shares`). It is charged in full from the start, and settled with what the run spent: whatever ends
in between (a crash, a caller who leaves in the middle) counts against the share with all that was held.
"""

from __future__ import annotations

from dataclasses import dataclass

from policies.amounts import NOTHING, Amount
from policies.conditions import SpentShare
from policies.errors import BudgetDenied
from policies.later import Later
from policies.ledger import Ledger, Scopes
from policies.schema import TenantPolicy
from policies.shares import share_scopes, spend_scopes, spent_share
from router.background import Background
from router.lease import Lease


@dataclass(slots=True)
class _Hold:
    lease: Lease
    spent: Amount = NOTHING
    running: bool = False


class TierShares:
    """One request's holds on capped tiers; for other tiers every call does nothing.

    `lease_id` is the request's lease, of which the holds' ids are made.
    """

    def __init__(
        self,
        ledger: Ledger,
        tenant: TenantPolicy,
        lease_id: str,
        ttl_s: float,
        background: Background,
        later: Later,
    ) -> None:
        self._ledger = ledger
        self._tenant = tenant
        self._lease_id = lease_id
        self._ttl_s = ttl_s
        self._background = background
        self._later = later
        self._capped = tenant.tier_share.capped()
        self._holds: dict[str, _Hold] = {}

    async def take(self, tier: str, amount: Amount) -> SpentShare | None:
        """Hold what a run may spend before it runs; why not, where the share has no room.

        A tier that is held already holds what is missing. Raises StoreUnavailable.
        """
        if tier not in self._capped:
            return None
        hold = self._holds.get(tier)
        try:
            if hold is None:
                await self._reserve(tier, amount)
            else:
                await self._hold_more(hold, amount.beyond(hold.lease.held))
        except BudgetDenied as denied:
            return spent_share(self._tenant, tier, amount, denied)
        return None

    async def look(self, tier: str, amount: Amount) -> SpentShare | None:
        """What `take` would say, without holding anything. Raises StoreUnavailable."""
        if tier not in self._capped:
            return None
        for gauge in await self._ledger.peek(self._tenant.account, await self._scopes(tier)):
            left = gauge.remaining
            if left is not None and left < getattr(amount, gauge.unit):
                denied = BudgetDenied(gauge.scope, gauge.window, left, gauge.reset_s)
                return spent_share(self._tenant, tier, amount, denied)
        return None

    async def extend(self, tier: str, extra: Amount) -> None:
        """Hold more for a run that was refused its budget. Raises BudgetDenied, StoreUnavailable."""
        hold = self._holds.get(tier)
        if hold is not None:
            await self._hold_more(hold, extra)

    def begin(self, tier: str) -> None:
        """A run is handed to the tier."""
        if tier in self._holds:
            self._holds[tier].running = True

    def end(self, tier: str, spent: Amount) -> None:
        """It ended and told what it spent. A run without an end is charged all that was held."""
        hold = self._holds.get(tier)
        if hold is not None:
            hold.running = False
            hold.spent += spent

    def close(self) -> None:
        """Settle every hold whose spend is known; nobody waits for it."""
        for hold in self._holds.values():
            if not hold.running:
                self._background.spawn(hold.lease.settle(hold.spent, exact=True))
        self._holds = {}

    async def _reserve(self, tier: str, amount: Amount) -> None:
        lease = Lease(self._ledger, self._tenant.account, self._ttl_s, self._background, self._later)
        lease.id = f"{self._lease_id}.{tier}"
        await lease.reserve(await self._scopes(tier), amount)
        self._holds[tier] = _Hold(lease)
        await lease.known(amount)  # from now on, what becomes of nobody is charged in full

    async def _scopes(self, tier: str) -> Scopes:
        looked_at = spend_scopes(self._tenant)
        spent = await self._ledger.peek(self._tenant.account, looked_at) if looked_at else ()
        return share_scopes(self._tenant, tier, spent)

    async def _hold_more(self, hold: _Hold, extra: Amount) -> None:
        if extra:
            await hold.lease.extend(extra)
            await hold.lease.known(hold.lease.held)
