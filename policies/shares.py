"""The share of a tenant's spend that a tier may take in a window: what it comes to, as a limit of the ledger.

Whoever steers the classifier steers requests to the dearest tier; the cap bounds what that can cost. Each
capped tier is a scope of its own beside the tenant's. Before a run on it, its hold is reserved there too,
under a limit: the share times the tenant's budget of the window, unit by unit, where it has one. Where it has
none, the share of the tokens that the tenant has spent in the window so far, `floor_tokens` at least. What
was spent only grows within a window, so a number read a moment ago never allows too much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from policies.amounts import Amount, Unit
from policies.conditions import SpentShare
from policies.errors import BudgetDenied
from policies.ledger import Gauge, Scopes
from policies.schema import TenantPolicy

EDGE_S = 5.0  # so shortly before a window ends, what was spent in it says nothing about the next one


def tenant_scope(tenant: TenantPolicy) -> str:
    """The scope in which the ledger counts what the tenant spends."""
    return next(name for name, _ in tenant.scopes() if name.partition(":")[0] == "tenant")


def tier_scope(tenant: TenantPolicy, tier: str) -> str:
    """The scope in which the ledger counts what the tenant spends on one tier."""
    return tenant_scope(tenant).replace("tenant", "tier", 1) + f":{tier}"


def spend_scopes(tenant: TenantPolicy) -> Scopes:
    """What to look at to know what the tenant has spent; empty where its budget decides."""
    window = tenant.tier_share.window
    if tenant.budgets.limits()[window]:
        return []
    return [(tenant_scope(tenant), {window: {}})]


def share_scopes(tenant: TenantPolicy, tier: str, spent: Sequence[Gauge] = ()) -> Scopes:
    """The tier's scope with its limits, empty where it has no cap. `spent` are gauges of `spend_scopes`."""
    rule = tenant.tier_share
    share = rule.capped().get(tier)
    if share is None:
        return []
    limits: Mapping[Unit, int] = {
        unit: int(share * limit) for unit, limit in tenant.budgets.limits()[rule.window].items()
    }
    if not limits:
        tokens = sum(g.used for g in spent if g.unit == "tokens" and g.reset_s > EDGE_S)
        limits = {"tokens": max(rule.floor_tokens if share > 0 else 0, int(share * tokens))}
    return [(tier_scope(tenant, tier), {rule.window: limits})]


def spent_share(tenant: TenantPolicy, tier: str, amount: Amount, denied: BudgetDenied) -> SpentShare:
    """Why a run that could take `amount` may not run on the tier, for the planner."""
    rule = tenant.tier_share
    share = rule.capped()[tier]
    fixed = tenant.budgets.limits()[rule.window] or share == 0  # else it grows as the tenant spends
    whole = [limits for _, windows in share_scopes(tenant, tier) for limits in windows.values()]
    never = fixed and any(getattr(amount, unit) > most for limits in whole for unit, most in limits.items())
    return SpentShare(share, rule.window, denied.remaining, None if never else denied.retry_after_s)
