"""The way around a budgets store that does not answer, as the tenant's `on_store_error` says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from policies.errors import StoreUnavailable
from policies.later import Later
from policies.limits import LimitUsage, RateLimits
from policies.memory_limits import MemoryLimits
from policies.outage import OutageLedger, Unaccounted
from policies.schema import TenantPolicy
from router.lease import Lease
from router.parts import Parts


class Outage:
    """What the requests of one replica share while the store is away, and what they owe it afterwards."""

    def __init__(self, parts: Parts) -> None:
        self.later = Later()
        self.ledger = OutageLedger(parts.ledger, self.later, share=parts.outage_share)
        self.unaccounted = Unaccounted()
        self.limits = MemoryLimits()

    async def aclose(self) -> None:
        await self.later.aclose()

    def detour(self, tenant: TenantPolicy) -> Detour:
        """For one request of that tenant."""
        return Detour(self, tenant)


class Detour:
    """One request's: `leave` when it ends. Methods raise the store's error where the tenant wants that."""

    def __init__(self, outage: Outage, tenant: TenantPolicy) -> None:
        self._outage = outage
        self._tenant = tenant
        self._unaccounted = False
        self._counted_here = False

    async def admit(
        self, error: StoreUnavailable, admitted_by: Callable[[RateLimits], Awaitable[LimitUsage]]
    ) -> LimitUsage:
        """Rate limits without the store: this replica's own counts for `degrade`, none for `allow`."""
        if self._tenant.on_store_error == "deny":
            raise error
        if self._tenant.on_store_error == "allow":
            return LimitUsage()
        self._counted_here = True
        return await admitted_by(self._outage.limits)

    async def left(self, limits: RateLimits, left: Callable[[RateLimits], Awaitable[None]]) -> None:
        """End the request's admission where it was counted, and in the store as soon as that can be told."""
        if self._counted_here:
            await left(self._outage.limits)
        try:
            await left(limits)
        except StoreUnavailable:
            self._outage.later.put("the end of an admission", partial(left, limits))

    def take(self, error: StoreUnavailable, lease: Lease) -> bool:
        """Let the lease do without the store; True where it must be reserved by this replica's count."""
        if self._tenant.on_store_error == "deny":
            raise error
        if self._tenant.on_store_error == "degrade":
            lease.counted_by(self._outage.ledger)
            return True
        if not self._unaccounted:
            self._outage.unaccounted.enter(self._tenant.name, self._tenant.limits.concurrency)
            self._unaccounted = True
        lease.unmetered()
        return False

    def leave(self) -> None:
        """The request is over."""
        if self._unaccounted:
            self._unaccounted = False
            self._outage.unaccounted.leave(self._tenant.name)
