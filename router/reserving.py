"""A plan and the hold for it: made together, because what is left decides what can be planned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from policies.amounts import Amount
from policies.arm_spec import TIERS
from policies.conditions import SpentShare
from policies.errors import BudgetDenied, NoArm, StoreUnavailable
from policies.ledger import Scopes
from policies.plan import Plan
from router.lease import Lease
from router.outage import Detour
from router.tier_shares import TierShares

STORE_AWAY = "the budget store does not answer: the cheapest tier answers, within what the budget had left"
UNACCOUNTED = "the budget store does not answer: nothing is counted"


class Planner(Protocol):
    """Plans with `remaining_tokens` left (None: as if there were enough), on the tiers `only` (None: all).

    `spent_shares` are tiers that may spend no more.
    """

    def __call__(
        self,
        remaining_tokens: int | None,
        retry_after_s: float | None,
        only: frozenset[str] | None = None,
        spent_shares: Mapping[str, SpentShare] | None = None,
        /,
    ) -> Plan: ...


async def reserved(lease: Lease, scopes: Scopes, plan: Planner, detour: Detour, shares: TierShares) -> Plan:
    """A plan whose first rung is held: by the store or, while that is away, as the tenant's policy says.

    Raises what planning raises, BudgetDenied, and StoreUnavailable where the policy does not do without.
    """
    try:
        return await _held(lease, scopes, plan, shares)
    except StoreUnavailable as error:
        if detour.take(error, lease):
            found = await _held(lease, scopes, _on_cheapest_tier(plan, error))
            return replace(found, degraded=True, reasons=(STORE_AWAY, *found.reasons))
        found = plan(None, None)
        lease.held = Amount(found.start.budget_tokens)
        return replace(found, reasons=(UNACCOUNTED, *found.reasons))


async def _held(lease: Lease, scopes: Scopes, plan: Planner, shares: TierShares | None = None) -> Plan:
    """Plan as if budget and shares sufficed; where one does not, plan again with what is left."""
    spent: dict[str, SpentShare] = {}
    left: tuple[int | None, float | None] = (None, None)
    while True:  # the budget refuses once, and each tier's share once: then it is not planned with any more
        found = plan(*left, None, spent)
        amount = Amount(found.start.budget_tokens)
        refused = None if shares is None else await shares.take(found.start.tier, amount)
        if refused is not None:
            spent[found.start.tier] = refused
            continue
        try:
            await lease.reserve(scopes, amount)
        except BudgetDenied as denied:
            if left[0] is not None:
                raise
            left = (denied.remaining, denied.retry_after_s)
        else:
            return found


async def foreseen(
    plan: Planner, remaining_tokens: int | None, retry_after_s: float | None, shares: TierShares
) -> Plan:
    """The plan that would be held now; nothing is. Raises what planning raises, StoreUnavailable."""
    spent: dict[str, SpentShare] = {}
    while True:
        found = plan(remaining_tokens, retry_after_s, None, spent)
        refused = await shares.look(found.start.tier, Amount(found.start.budget_tokens))
        if refused is None:
            return found
        spent[found.start.tier] = refused


def _on_cheapest_tier(plan: Planner, error: StoreUnavailable) -> Planner:
    """Plans on the first tier that may answer at all; `error` where allow_degrade is false."""

    def cheap(
        remaining_tokens: int | None,
        retry_after_s: float | None,
        only: frozenset[str] | None = None,
        spent_shares: Mapping[str, SpentShare] | None = None,
        /,
    ) -> Plan:
        for tier in TIERS:
            try:
                return plan(remaining_tokens, retry_after_s, frozenset({tier}))
            except NoArm as none:
                if not none.unavailable:
                    raise
        raise error

    return cheap
