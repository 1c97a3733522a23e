"""How a tier tells the ledger what it spends, also where the ledger does not listen for a while."""

from __future__ import annotations

import time

from backends.task import Used
from policies.amounts import Amount
from policies.errors import LeaseNotOpen, StoreUnavailable
from policies.later import Later
from policies.ledger import Ledger

# The ingress opens a lease that was counted without the store when that is back: within about a second.
UNKNOWN_FOR_S = 10.0


class LedgerMeter:
    """Tells the ledger what a tier spends (`backends.runner.Meter`)."""

    def __init__(self, ledger: Ledger, lease_ttl_s: float) -> None:
        self._ledger = ledger
        self._lease_ttl_s = lease_ttl_s
        self._later = Later()

    async def checkpoint(self, tenant: str, lease_id: str, used: Used) -> None:
        """A checkpoint that the store misses is made good by the next; its breaker says that it is away."""
        try:
            await self._ledger.checkpoint(lease_id, _amount(used), self._lease_ttl_s)
        except StoreUnavailable:
            return

    async def abandon(self, tenant: str, lease_id: str, used: Used) -> None:
        """Settle, later if it must be: nobody else knows what the run had spent."""
        settle = _Settlement(self._ledger, lease_id, _amount(used))
        try:
            await settle()
        except StoreUnavailable:
            self._later.put(f"the settlement of lease {lease_id}", settle)

    async def aclose(self) -> None:
        """Wait a while for what could not be told."""
        await self._later.aclose()


def _amount(used: Used) -> Amount:
    return Amount.of(used.tokens, used.gpu_seconds, used.usd)


class _Settlement:
    """To be tried until it is told: for a while also where the store has not met the lease yet."""

    def __init__(self, ledger: Ledger, lease_id: str, used: Amount) -> None:
        self._ledger = ledger
        self._lease_id = lease_id
        self._used = used
        self._unknown_since_s: float | None = None

    async def __call__(self) -> None:
        try:
            await self._ledger.settle(self._lease_id, self._used, exact=True)
        except LeaseNotOpen as error:
            now_s = time.monotonic()
            since_s = self._unknown_since_s = self._unknown_since_s or now_s
            if error.state != "unknown" or now_s - since_s > UNKNOWN_FOR_S:
                raise
            problem = f"lease {self._lease_id} is not in the store yet; settle it later"
            raise StoreUnavailable(problem) from error
