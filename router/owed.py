"""What a plan owes for its rungs, those that never told their end included."""

from __future__ import annotations

from typing import Protocol

from backends.task import Spend, Used
from policies.amounts import NOTHING, Amount
from policies.errors import StoreUnavailable


class KnownSpend(Protocol):
    """The lease, as it knows what was spent on it."""

    async def known(self, used: Amount) -> Amount | None: ...


class Owed:
    """`spend` is what the rungs told that ended; `amount` adds what lost ones had told the ledger.

    It is `exact` unless a run is in flight, or was lost and nobody has said yet what it spent.
    """

    def __init__(self) -> None:
        self.spend = Spend()
        self.gpu_seconds = 0.0
        self.usd = 0.0
        self.in_flight = False
        self._lost = NOTHING
        self._unknown = False

    @property
    def tokens(self) -> int:
        return self.amount.tokens

    @property
    def amount(self) -> Amount:
        return Amount.of(self.spend.total, self.gpu_seconds, self.usd) + self._lost

    @property
    def used(self) -> Used:
        """The same, for those who count on."""
        return Used(
            self.tokens,
            self.gpu_seconds + self._lost.gpu_ms / 1_000,
            self.usd + self._lost.micro_usd / 1_000_000,
        )

    @property
    def exact(self) -> bool:
        return not self.in_flight and not self._unknown

    def start(self) -> None:
        """A run is handed to its tier."""
        self.in_flight = True

    def end(self, spend: Spend | None, gpu_seconds: float = 0.0, usd: float = 0.0) -> None:
        """It ended and told what it spent, None for nothing, and what that comes to."""
        self.spend += spend or Spend()
        self.gpu_seconds += gpu_seconds
        self.usd += usd
        self.in_flight = False

    def lose(self) -> None:
        """Its tier is gone, and with it the count of what it spent."""
        self.in_flight = False
        self._unknown = True

    async def find_lost(self, lease: KnownSpend) -> int | None:
        """Owe what the lost run had told the ledger, and return its tokens.

        None where the lease is closed: the tier shut down in order and settled what it had spent. A store
        that does not answer leaves it inexact: the settlement then charges no less than was told.
        """
        try:
            known = await lease.known(self.amount)
        except StoreUnavailable:
            return 0
        if known is None:
            return None
        lost = known.beyond(self.amount)
        self._lost += lost
        self._unknown = False
        return lost.tokens
