"""One request's lease: reserved, extended, settled exactly once, whatever happens in between."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from policies.amounts import NOTHING, Amount
from policies.errors import LeaseNotOpen, LedgerError, StoreUnavailable
from policies.later import Later
from policies.ledger import Ledger, Scopes, new_lease_id
from router.background import Background

log = logging.getLogger(__name__)

# The tier settles an abandoned run by itself within milliseconds; after this long it never got the run.
ABANDONED_AFTER_S = 2.0


class Lease:
    """A hold on an account's budgets. `id` is "" where the policy lets requests pass without a store."""

    def __init__(
        self, ledger: Ledger, account: str, ttl_s: float, background: Background, later: Later
    ) -> None:
        self._ledger = ledger
        self._background = background
        self._later = later
        self._account = account
        self._ttl_s = ttl_s
        self.id = new_lease_id(account)
        self.held = NOTHING
        self.remaining_tokens: int | None = None

    def unmetered(self) -> None:
        """Go on without the store: nothing is held and nothing will be charged."""
        self.id = ""

    def counted_by(self, ledger: Ledger) -> None:
        """Reserve from another ledger, under another id: that of before may be held or freed by now."""
        self._ledger = ledger
        self.id = new_lease_id(self._account)

    async def reserve(self, scopes: Scopes, amount: Amount) -> None:
        """Hold an amount. Raises BudgetDenied, StoreUnavailable."""
        try:
            self.remaining_tokens = await self._ledger.reserve(
                self.id, self._account, scopes, amount, self._ttl_s
            )
        except (StoreUnavailable, asyncio.CancelledError):
            # Whether the hold was placed is unknown; freeing it by its id is right in both cases.
            self._background.spawn(self._free(self._ledger, self.id))
            raise
        self.held = amount

    async def extend(self, extra: Amount) -> None:
        """Hold more. Raises BudgetDenied, LeaseNotOpen, StoreUnavailable."""
        if self.id:
            self.remaining_tokens = await self._ledger.extend(self.id, extra)
        self.held += extra

    async def known(self, used: Amount) -> Amount | None:
        """What this lease has spent as far as anyone told: `used`, or more, by a tier that is gone.

        None where it is not open any more: the tier settled it as it left. Raises StoreUnavailable.
        """
        if not self.id:
            return used
        return await self._ledger.checkpoint(self.id, used, self._ttl_s)

    async def settle(self, used: Amount, *, exact: bool = True) -> int:
        """Charge what was used, free the rest, and return the tokens that were charged.

        Not `exact`: a run was lost, and what it told last is charged where that is more. A store that does
        not answer is told when it does: the operation is idempotent by id, and if the lease has expired into
        its checkpoint by then, the difference is charged.
        """
        if not self.id:
            return 0
        try:
            self.remaining_tokens = await self._ledger.settle(self.id, used, exact=exact)
        except StoreUnavailable:
            self._settle_later(used, exact=exact)
        except LeaseNotOpen:
            # The store lost its data. The answer was paid for with compute and is given all the same.
            log.error("lease %s is not in the store any more; nothing can be charged to it", self.id)
            return 0
        return used.tokens

    def settle_abandoned(self, used: Amount) -> None:
        """The caller left while a tier was at work: the tier settles; this frees the lease if it cannot."""
        if self.id:
            self._settle_later(used, exact=False, wait_s=ABANDONED_AFTER_S)

    async def _free(self, ledger: Ledger, lease_id: str) -> None:
        release = partial(ledger.release, lease_id)
        try:
            await release()
        except StoreUnavailable:
            self._later.put(f"the release of lease {lease_id}", release)
        except LedgerError:
            log.debug("lease %s was not there to release", lease_id)

    def _settle_later(self, used: Amount, *, exact: bool, wait_s: float = 0.0) -> None:
        settle = partial(self._ledger.settle, self.id, used, exact=exact)
        self._later.put(f"the settlement of lease {self.id}", settle, wait_s=wait_s)
