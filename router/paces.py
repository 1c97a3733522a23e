"""How each tenant keeps to its schedule, looked up at most once a second and never while a request waits."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from policies.errors import StoreUnavailable
from policies.ledger import Gauge, Ledger
from policies.pacing import EVEN, Pace, elapsed_share, tightest_pace
from policies.schema import TenantPolicy
from policies.shares import tenant_scope
from router.background import Background

log = logging.getLogger(__name__)

FRESH_S = 1.0


@dataclass(slots=True)
class _Known:
    gauges: Sequence[Gauge] = ()
    asked_s: float = -FRESH_S


class Paces:
    """One replica's paces. All replicas see the same numbers, the ledger's, so they steer alike.

    The first request of a tenant finds an even pace. While the store is away the last one stays.
    """

    def __init__(
        self, ledger: Ledger, background: Background, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._ledger = ledger
        self._background = background
        self._now_s = now_s
        self._known: dict[str, _Known] = {}

    def of(self, tenant: TenantPolicy) -> Pace:
        """The pace as it was a second ago or so; asks for a new one where that is old."""
        if tenant.pacing is None:
            return EVEN
        known = self._known.setdefault(tenant.name, _Known())
        now = self._now_s()
        if now - known.asked_s >= FRESH_S:
            known.asked_s = now
            self._background.spawn(self._look(tenant, known))
        return pace_of(tenant, known.gauges)

    async def _look(self, tenant: TenantPolicy, known: _Known) -> None:
        try:
            known.gauges = await self._ledger.peek(tenant.account, tenant.scopes())
        except StoreUnavailable:
            log.debug("the pace of %s stays as it was: the store does not answer", tenant.name)


def pace_of(tenant: TenantPolicy, gauges: Sequence[Gauge]) -> Pace:
    """The pace that the tenant's own gauges say, whichever others are among them."""
    rule = tenant.pacing
    if rule is None:
        return EVEN
    own = tenant_scope(tenant)
    window = [g for g in gauges if g.window == rule.window and g.scope == own]
    limited = [(g.unit, g.used + g.held, g.limit) for g in window if g.limit is not None]
    if not limited:
        return EVEN
    return tightest_pace(rule, limited, elapsed_share(rule.window, window[0].reset_s))
