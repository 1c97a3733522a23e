"""A policy's budgets on the clock of a log: the ledger in memory, one decision after the other.

Each decision is charged what it is expected to spend before the next is planned. What runs side by side, rate
limits and tiers' shares are not simulated.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from policies.amounts import Amount
from policies.memory_ledger import InMemoryLedger
from policies.pacing import EVEN, Pace
from policies.schema import TenantPolicy
from router.paces import pace_of

T = TypeVar("T")
_TTL_S = 60.0


class LogBudgets:
    """All accounts of a policy, as far as the log has come."""

    def __init__(self) -> None:
        self._at_s = 0.0
        self._count = 0
        self._ledger = InMemoryLedger(lambda: self._at_s)

    def look(self, tenant: TenantPolicy, key_id: str, at_ms: int) -> tuple[int | None, float | None, Pace]:
        """Tokens that the tightest window has left (None: no budget), seconds to its edge, and the pace.

        A window without GPU time or money left has no tokens left either.
        """
        if not _limited(tenant, key_id):
            return None, None, EVEN
        self._at_s = at_ms / 1000.0
        gauges = _done(self._ledger.peek(tenant.account, tenant.scopes(key_id)))
        room: int | None = None
        edge_s: float | None = None
        for gauge in gauges:
            left = gauge.remaining
            if left is None or (gauge.unit != "tokens" and left > 0):
                continue
            if room is None or left < room:
                room, edge_s = left, gauge.reset_s
        return room, edge_s, pace_of(tenant, gauges)

    def charge(
        self, tenant: TenantPolicy, key_id: str, tokens: float, gpu_seconds: float, usd: float
    ) -> None:
        """Count what the decision that was looked at last is expected to spend, in every window at once."""
        if not _limited(tenant, key_id):
            return
        self._count += 1
        lease = f"{tenant.account}:{self._count}"
        _done(self._ledger.reserve(lease, tenant.account, tenant.scopes(key_id), Amount(), _TTL_S))
        _done(self._ledger.settle(lease, Amount.of(round(tokens), gpu_seconds, usd)))


def _limited(tenant: TenantPolicy, key_id: str) -> bool:
    return any(limits for _, windows in tenant.scopes(key_id) for limits in windows.values())


def _done(asked: Coroutine[Any, Any, T]) -> T:
    """What the ledger says; the one in memory awaits nothing, so its first step is its last."""
    try:
        asked.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    raise AssertionError("the ledger in memory awaited something")
