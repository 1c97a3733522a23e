"""What a request may cost: the caller's wishes, the tenant's caps and the effort's ceiling together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from policies.arm_spec import TIERS
from policies.arms import Size
from policies.errors import BudgetExhausted, CeilingExceeded, RequestTooLarge, TierForbidden, UnknownTier
from policies.plan import Ask
from policies.schema import EFFORTS, MAX_TOKENS, EffortRule, Policy, TenantPolicy


@dataclass(frozen=True, slots=True)
class Ceilings:
    """The bounds of a plan. `total_name` says where `total_tokens` comes from, for messages.

    `soft_target`: cost may speak against the arm that meets the target, where spending is ahead of schedule.
    """

    tiers: tuple[str, ...]
    max_samples: int
    cost_weight: float
    size: Size
    total_tokens: int
    total_name: str
    timeout_s: float
    target: float
    may_degrade: bool
    reasons: tuple[str, ...]
    soft_target: bool = False


def ceilings(ask: Ask, tenant: TenantPolicy, policy: Policy) -> Ceilings:
    """The tightest of all bounds.

    Raises UnknownTier, TierForbidden, CeilingExceeded (a cap is never applied silently; samples, total tokens
    and effort are ceilings themselves, of which the lowest holds), RequestTooLarge.
    """
    if ask.tier is not None and ask.tier not in TIERS:
        raise UnknownTier(ask.tier)
    if ask.tier is not None and ask.tier not in tenant.tiers:
        raise TierForbidden(ask.tier, tenant.tiers)
    rule, reasons = _effort(ask, tenant, policy)
    size = Size(
        ask.prompt_tokens,
        round(
            _capped(
                "max_completion_tokens",
                ask.max_completion_tokens,
                tenant.max_completion_tokens.default,
                tenant.max_completion_tokens.cap,
            )
        ),
    )
    total, name = tenant.max_total_tokens or MAX_TOKENS, "the tenant's max_total_tokens"
    if ask.max_total_tokens is not None and ask.max_total_tokens < total:
        total, name = ask.max_total_tokens, "compute.max_total_tokens"
    deadline_ms = None if ask.deadline_s is None else ask.deadline_s * 1000.0
    deadline = tenant.deadline_s
    timeout_ms = _capped("compute.deadline_ms", deadline_ms, deadline.default * 1000, deadline.cap * 1000)
    _refuse_too_large(ask, tenant, size, total, name)
    return Ceilings(
        tiers=_tiers(ask, tenant, rule),
        max_samples=min(rule.max_samples, tenant.max_samples, ask.max_samples or rule.max_samples),
        cost_weight=tenant.cost_weight * rule.cost_weight,
        size=size,
        total_tokens=total,
        total_name=name,
        timeout_s=timeout_ms / 1000.0,
        target=tenant.quality_target if ask.min_quality is None else ask.min_quality,
        may_degrade=tenant.allow_degrade if ask.allow_degrade is None else ask.allow_degrade,
        reasons=reasons,
    )


def refuse_low_budget(needed: int, room: int, tenant: TenantPolicy, retry_after_s: float | None) -> NoReturn:
    """Raise RequestTooLarge if even an empty window is too small, else BudgetExhausted."""
    smallest = tenant.smallest_budget()
    if smallest is not None and needed > smallest[1]:
        raise RequestTooLarge(needed, smallest[1], f"the {smallest[0]} budget")
    raise BudgetExhausted(needed, room, retry_after_s)


def _effort(ask: Ask, tenant: TenantPolicy, policy: Policy) -> tuple[EffortRule, tuple[str, ...]]:
    asked = ask.effort or tenant.default_effort
    index = next((i for i, effort in enumerate(EFFORTS) if effort == asked), None)
    if index is None:
        raise ValueError(f"no effort {asked!r}; there are {', '.join(EFFORTS)}")
    if index <= EFFORTS.index(tenant.max_effort):
        return policy.efforts[EFFORTS[index]], ()
    reason = f"effort {asked} counts as {tenant.max_effort}, the highest that the tenant may ask for"
    return policy.efforts[tenant.max_effort], (reason,)


def _tiers(ask: Ask, tenant: TenantPolicy, rule: EffortRule) -> tuple[str, ...]:
    """A pinned tier or strategy is used whatever the effort, which then sets the samples."""
    if ask.tier is not None:
        return (ask.tier,)
    if ask.strategy is not None:
        return tenant.tiers
    # A tenant without any of the effort's tiers gets its first one: an effort is a ceiling, no refusal.
    return tuple(tier for tier in tenant.tiers if tier in rule.tiers) or tenant.tiers[:1]


def _capped(param: str, asked: float | None, default: float, cap: float) -> float:
    if asked is not None and asked > cap:
        raise CeilingExceeded(param, asked, cap)
    return default if asked is None else asked


def _refuse_too_large(ask: Ask, tenant: TenantPolicy, size: Size, total: int, name: str) -> None:
    least = ask.choices * (size.prompt_tokens + size.floor_tokens)
    if least > total:
        raise RequestTooLarge(least, total, name)
    smallest = tenant.smallest_budget()
    if smallest is not None and least > smallest[1]:
        raise RequestTooLarge(least, smallest[1], f"the {smallest[0]} budget")
