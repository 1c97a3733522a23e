"""A plan and the hold for it: made together, because what is left decides what can be planned."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from policies.amounts import Amount
from policies.arm_spec import TIERS
from policies.errors import BudgetDenied, NoArm, StoreUnavailable
from policies.ledger import Scopes
from policies.plan import Plan
from router.lease import Lease
from router.outage import Detour

STORE_AWAY = "the budget store does not answer: the cheapest tier answers, within what the budget had left"
UNACCOUNTED = "the budget store does not answer: nothing is counted"


class Planner(Protocol):
    """Plans with `remaining_tokens` left (None: as if there were enough), on the tiers `only` (None: all)."""

    def __call__(
        self,
        remaining_tokens: int | None,
        retry_after_s: float | None,
        only: frozenset[str] | None = None,
        /,
    ) -> Plan: ...


async def reserved(lease: Lease, scopes: Scopes, plan: Planner, detour: Detour) -> Plan:
    """A plan whose first rung is held: by the store or, while that is away, as the tenant's policy says.

    Raises what planning raises, BudgetDenied, and StoreUnavailable where the policy does not do without.
    """
    try:
        return await _held(lease, scopes, plan)
    except StoreUnavailable as error:
        if detour.take(error, lease):
            found = await _held(lease, scopes, _on_cheapest_tier(plan, error))
            return replace(found, degraded=True, reasons=(STORE_AWAY, *found.reasons))
        found = plan(None, None)
        lease.held = Amount(found.start.budget_tokens)
        return replace(found, reasons=(UNACCOUNTED, *found.reasons))


async def _held(lease: Lease, scopes: Scopes, plan: Planner) -> Plan:
    """Plan as if the budget sufficed; where it does not, plan again with what is left."""
    found = plan(None, None)
    try:
        await lease.reserve(scopes, Amount(found.start.budget_tokens))
    except BudgetDenied as denied:
        found = plan(denied.remaining, denied.retry_after_s)
        await lease.reserve(scopes, Amount(found.start.budget_tokens))
    return found


def _on_cheapest_tier(plan: Planner, error: StoreUnavailable) -> Planner:
    """Plans on the first tier that may answer at all; `error` where allow_degrade is false."""

    def cheap(
        remaining_tokens: int | None, retry_after_s: float | None, only: frozenset[str] | None = None, /
    ) -> Plan:
        for tier in TIERS:
            try:
                return plan(remaining_tokens, retry_after_s, frozenset({tier}))
            except NoArm as none:
                if not none.unavailable:
                    raise
        raise error

    return cheap
