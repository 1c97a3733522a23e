"""What a configuration and a policy come to, before anything runs: tiers, arms, their costs, and a plan.

Nothing is loaded or connected: engines are built and never started.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from backends.cost import Cost, cost
from backends.engines.base import EngineInfo, Message
from backends.engines.build import build_engine
from backends.hardware import Hardware, ModelShape
from backends.task import Spend
from policies.arm_spec import READS
from policies.arms import Candidate, Size
from policies.bounds import Load
from policies.candidates import candidate
from policies.errors import PlanRefused
from policies.plan import ArmEstimate, Ask, Param, Plan
from policies.planner import make_plan
from policies.schema import Policy, TenantPolicy
from router.abilities import shortcomings
from router.config import AppConfig, TierConfig
from router.estimate import estimated_prompt_tokens, prompt_bytes_per_token


@dataclass(frozen=True, slots=True)
class TierSheet:
    """A tier: its engine with its settings, and the hardware and the model's size that price its work."""

    name: str
    engine: str
    info: EngineInfo
    hardware: Hardware
    shape: ModelShape


@dataclass(frozen=True, slots=True)
class ArmSheet:
    """An arm for requests of one size: what it may spend and what that costs, alone and with nothing cached.

    `problem` says why its tier cannot run it; `most` is None where there is no such tier to price it. `p` and
    `expected` are None without a prediction.
    """

    name: str
    tier: str
    strategy: str
    params: Mapping[str, Param]
    problem: str | None
    most_tokens: int
    held_tokens: int
    most: Cost | None
    p: float | None = None
    expected_tokens: float | None = None
    expected: Cost | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """`plan` and `refusal` are for a question: what would be done, or why nothing would."""

    policy: str
    policy_version: str
    tenant: str
    prompt_tokens: int
    max_completion_tokens: int
    tiers: tuple[TierSheet, ...]
    arms: tuple[ArmSheet, ...]
    classifier: str | None = None
    difficulty: float | None = None
    plan: Plan | None = None
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request would say; None leaves it open. Without a `question` nothing is predicted or planned."""

    question: str | None = None
    tier: str | None = None
    effort: str | None = None
    strategy: str | None = None
    prompt_tokens: int | None = None
    max_completion_tokens: int | None = None


DEFAULT_PROMPT_TOKENS = 400


async def explain(config: AppConfig, policy: Policy, tenant: TenantPolicy, wish: Wish) -> Explanation:
    """Everything that is known beforehand. Raises ArtifactError where the classifier cannot be loaded."""
    size = Size(
        _prompt_tokens(config, wish), wish.max_completion_tokens or tenant.max_completion_tokens.default
    )
    tiers = {name: _tier(name, tier) for name, tier in config.tiers.items()}
    estimates: dict[str, ArmEstimate] = {}
    classifier, difficulty, plan, refusal = None, None, None, None
    if wish.question is not None:
        classifier, difficulty, estimates = _predicted(config, policy, wish.question)
        try:
            plan = _plan(config, policy, tenant, wish, size, estimates)
        except PlanRefused as refused:
            refusal = str(refused)
    arms, lacks = [], await shortcomings(policy, config)
    for name, spec in policy.arms.items():
        tier = tiers.get(spec.tier)
        arm = candidate(name, spec, policy, estimates)
        arms.append(_arm(arm, size, tier, lacks.get(name)))
    return Explanation(
        policy.name,
        policy.version,
        tenant.name,
        size.prompt_tokens,
        size.max_tokens,
        tuple(tiers.values()),
        tuple(arms),
        classifier,
        difficulty,
        plan,
        refusal,
    )


def _prompt_tokens(config: AppConfig, wish: Wish) -> int:
    if wish.prompt_tokens is not None:
        return wish.prompt_tokens
    if wish.question is None:
        return DEFAULT_PROMPT_TOKENS
    return estimated_prompt_tokens([Message("user", wish.question)], prompt_bytes_per_token(config))


def _tier(name: str, tier: TierConfig) -> TierSheet:
    info = build_engine(tier.engine).info
    return TierSheet(name, tier.engine.kind, info, tier.sheet(), tier.model_shape())


def _predicted(config: AppConfig, policy: Policy, question: str) -> tuple[str, float, dict[str, ArmEstimate]]:
    from classifier.predictor import Predictor

    prediction = Predictor.load(config.classifier.artifact).predict([{"role": "user", "content": question}])
    estimates = {
        arm: ArmEstimate(p, prediction.tokens[arm], prediction.tokens_high[arm])
        for arm, p in prediction.p.items()
        if arm in policy.arms
    }
    return prediction.version, prediction.difficulty, estimates


def _plan(
    config: AppConfig,
    policy: Policy,
    tenant: TenantPolicy,
    wish: Wish,
    size: Size,
    estimates: Mapping[str, ArmEstimate],
) -> Plan:
    """As if no budget were used yet. Raises PlanRefused."""
    ask = Ask(
        prompt_tokens=size.prompt_tokens,
        tier=wish.tier,
        effort=wish.effort,
        strategy=wish.strategy,
        max_completion_tokens=wish.max_completion_tokens,
    )
    smallest = tenant.smallest_budget()
    return make_plan(
        ask,
        tenant,
        policy,
        estimates,
        remaining_tokens=smallest[1] if smallest else None,
        available_tiers=frozenset(config.tiers),
    )


def _arm(arm: Candidate, size: Size, tier: TierSheet | None, problem: str | None) -> ArmSheet:
    unread = {"scorer"} if arm.spec.strategy == "self_consistency" and not arm.spec.weighted else set()
    reads = READS[arm.spec.strategy] - unread
    params = {name: value for name, value in arm.params().items() if name in reads}
    predicted = arm.estimate is not None
    return ArmSheet(
        name=arm.name,
        tier=arm.spec.tier,
        strategy=arm.spec.strategy,
        params=params,
        problem=problem,
        most_tokens=arm.hard_tokens(size),
        held_tokens=arm.reserve_tokens(size),
        most=None if tier is None else _cost(arm.work(size).most(), tier),
        p=arm.p if predicted else None,
        expected_tokens=arm.charged_tokens(size) if predicted else None,
        expected=_cost(arm.expected(size), tier) if predicted and tier is not None else None,
    )


def _cost(load: Load, tier: TierSheet) -> Cost:
    """Alone and with nothing cached: an upper bound, since batches and prefix caches only save."""
    spend = Spend(
        prompt_computed=round(load.prompt),
        completion_kept=round(load.completion),
        calls=math.ceil(load.calls),
    )
    return cost(spend, tier.shape, tier.hardware)
