"""A plan and the hold for it: made together, because what is left decides what can be planned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Protocol

from policies.amounts import in_words
from policies.arm_spec import TIERS
from policies.conditions import SpentShare
from policies.errors import BudgetDenied, BudgetExhausted, NoArm, PlanRefused, StoreUnavailable
from policies.ledger import Scopes
from policies.plan import Plan
from router.holding import Holding
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


async def reserved(
    lease: Lease,
    scopes: Scopes,
    plan: Planner,
    detour: Detour,
    shares: TierShares,
    holding: Holding,
    tiers: frozenset[str],
    sure: Planner,
) -> Plan:
    """A plan whose first rung is held: by the store or, while that is away, as the tenant's policy says.

    Tiers that the request's budgets cannot pay for are left out. `sure` plans as `plan` does without leaving
    anything to chance, for when nobody knows what is left. Raises what planning raises, BudgetDenied,
    PriceUnknown, and StoreUnavailable where the policy does not do without.
    """
    plan = _on_payable_tiers(plan, holding, tiers)
    try:
        return await _held(lease, scopes, plan, holding, shares)
    except StoreUnavailable as error:
        plan = _on_payable_tiers(sure, holding, tiers)
        if detour.take(error, lease):
            found = await _held(lease, scopes, _on_cheapest_tier(plan, error), holding)
            return replace(found, degraded=True, reasons=(STORE_AWAY, *found.reasons))
        found = plan(None, None)
        lease.held = holding.most(found.start, found.start.budget_tokens)
        return replace(found, reasons=(UNACCOUNTED, *found.reasons))


async def _held(
    lease: Lease, scopes: Scopes, plan: Planner, holding: Holding, shares: TierShares | None = None
) -> Plan:
    """Plan as if budget and shares sufficed; where one does not, plan again with what is left."""
    spent: dict[str, SpentShare] = {}
    short: BudgetDenied | None = None
    again: Callable[[Mapping[str, SpentShare]], Plan] = partial(plan, None, None, None)
    while True:  # the budget refuses once, and each tier's share once: then it is not planned with any more
        found = again(spent)
        amount = holding.most(found.start, found.start.budget_tokens)
        refused = None if shares is None else await shares.take(found.start.tier, amount)
        if refused is not None:
            spent[found.start.tier] = refused
            continue
        try:
            await lease.reserve(scopes, amount)
        except BudgetDenied as denied:
            if short is not None:
                raise
            short = denied
            again = partial(_smaller, found, plan, holding, denied)
        else:
            return found if short is not None else _with_known_starts(found, plan, lease, spent)


def _with_known_starts(found: Plan, plan: Planner, lease: Lease, spent: Mapping[str, SpentShare]) -> Plan:
    """Where the start may have been drawn: its propensity among the arms that the budget can pay for.

    What was left is known only now that the hold is placed; the same draw gives the same start.
    """
    if len(found.starts) < 2 or lease.remaining_tokens is None:
        return found
    try:
        again = plan(lease.remaining_tokens + lease.held.tokens, None, None, spent)
    except PlanRefused:
        return found
    return replace(found, starts=again.starts) if again.start.arm == found.start.arm else found


async def foreseen(
    plan: Planner,
    remaining_tokens: int | None,
    retry_after_s: float | None,
    shares: TierShares,
    holding: Holding,
    tiers: frozenset[str],
) -> Plan:
    """The plan that would be held now; nothing is. Raises what planning raises, StoreUnavailable."""
    plan = _on_payable_tiers(plan, holding, tiers)
    spent: dict[str, SpentShare] = {}
    while True:
        found = plan(remaining_tokens, retry_after_s, None, spent)
        amount = holding.most(found.start, found.start.budget_tokens)
        refused = await shares.look(found.start.tier, amount)
        if refused is None:
            return found
        spent[found.start.tier] = refused


def _smaller(
    asked: Plan, plan: Planner, holding: Holding, denied: BudgetDenied, spent: Mapping[str, SpentShare]
) -> Plan:
    """A plan for what is left of all units: on the tier that was meant, else on the cheapest that it pays."""
    if holding.only_tokens:
        return plan(denied.remaining, denied.retry_after_s, None, spent)
    try:
        found = plan(holding.room(asked.start, denied.left), denied.retry_after_s, None, spent)
    except BudgetExhausted as exhausted:
        for tier in TIERS:
            there = replace(asked.start, tier=tier)
            if not holding.may_move or tier == asked.start.tier or holding.unpayable(frozenset({tier})):
                continue
            try:
                found = plan(holding.room(there, denied.left), denied.retry_after_s, frozenset({tier}), spent)
                break
            except PlanRefused:
                continue
        else:
            if denied.unit == "tokens":
                raise
            raise denied from exhausted
    if denied.unit == "tokens":
        return found
    short = f"the {denied.window} budget of {denied.scope} has {in_words(denied.unit, denied.remaining)} left"
    return replace(found, reasons=(short, *found.reasons))


def _on_payable_tiers(plan: Planner, holding: Holding, tiers: frozenset[str]) -> Planner:
    """Plans without the tiers whose price is not known, where there is a budget that would need it."""
    unpayable = holding.unpayable(tiers)
    if not unpayable:
        return plan

    def payable(
        remaining_tokens: int | None,
        retry_after_s: float | None,
        only: frozenset[str] | None = None,
        spent_shares: Mapping[str, SpentShare] | None = None,
        /,
    ) -> Plan:
        left = (tiers if only is None else only) - unpayable
        try:
            found = plan(remaining_tokens, retry_after_s, left, spent_shares)
        except NoArm as none:
            if none.unavailable:
                raise holding.refuse(unpayable) from none
            raise
        return replace(found, reasons=(*found.reasons, f"left out: {holding.refuse(unpayable)}"))

    return payable


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
