"""Logs whose truth is known: two arms, what each is worth, and a live policy that explores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from policies.arm_spec import TIERS
from policies.loader import parse_policy
from policies.plan import ArmEstimate, Ask
from policies.planner import make_plan
from policies.schema import Policy
from router.decisions.digests import spec_digest
from router.decisions.record import Decision, Rung

CHEAP, DEAR = "direct/direct", "consistency/sc4"
WORTH = {CHEAP: {"easy": 0.9, "hard": 0.2}, DEAR: {"easy": 0.95, "hard": 0.7}}
TOKENS = {CHEAP: 20.0, DEAR: 200.0}
PROMPT = 10
BEGAN_MS = 1_700_000_000_000

POLICY = """
version: 1
name: replayed
arms:
  direct/direct: {{tier: direct, strategy: direct, temperature: 0}}
  consistency/sc4: {{tier: consistency, strategy: self_consistency, max_samples: {samples}}}
{arms}
defaults: {{default_effort: high}}
tenants:
  acme: {{quality_target: {target}, cost_weight: {weight}, exploration: {{rate: {rate}}}{more}}}
"""


def policy(
    target: float = 0.6,
    rate: float = 0.0,
    more: str = "",
    samples: int = 4,
    arms: str = "",
    weight: float = 0.01,
) -> Policy:
    """Where cost weighs little, hard requests start at the dear arm; where it weighs much, none does."""
    more = f", {more}" if more else ""
    return parse_policy(
        POLICY.format(target=target, weight=weight, rate=rate, more=more, samples=samples, arms=arms), "test"
    )


LIVE = policy(target=0.1, rate=0.1)
DEARER = policy(target=0.6)


def decisions(
    count: int, seed: int = 0, live: Policy = LIVE, told: float = 1.0, every_ms: int = 1_000, **over: Any
) -> list[Decision]:
    """The live policy's log; a share `told` of it has feedback. Every run ends after its first rung."""
    rng = np.random.default_rng(seed)
    return [_decision(rng, number, live, told, BEGAN_MS + number * every_ms, over) for number in range(count)]


def _decision(
    rng: np.random.Generator, number: int, live: Policy, told: float, at_ms: int, over: Mapping[str, Any]
) -> Decision:
    kind = "easy" if rng.random() < 0.5 else "hard"
    estimates = {arm: ArmEstimate(WORTH[arm][kind], TOKENS[arm], 2 * TOKENS[arm]) for arm in WORTH}
    plan = make_plan(
        Ask(prompt_tokens=PROMPT),
        live.tenants["acme"],
        live,
        estimates,
        remaining_tokens=None,
        available_tiers=frozenset(TIERS),
        draw=float(rng.random()),
    )
    arm = plan.start.arm
    completion = max(1, round(TOKENS[arm] * float(rng.lognormal(0.0, 0.3))))
    right = float(rng.random() < WORTH[arm][kind])
    known: dict[str, Any] = {
        "decision_id": f"dec-{number}",
        "at_ms": at_ms,
        "tenant": "acme",
        "policy_version": live.version,
        "outcome": "answered",
        "ask": {"prompt_tokens": PROMPT},
        "arms": estimates,
        "plan": tuple(step.arm for step in plan.steps),
        "starts": plan.starts,
        "explored": plan.explored,
        "cache": "bypass",
        "rungs": (rung(arm, live, tokens=completion + PROMPT, completion_tokens=completion),),
        "tokens": completion + PROMPT,
        "charged_tokens": completion + PROMPT,
        "score": right if rng.random() < told else None,
    }
    return Decision(**(known | over))


def rung(arm: str, of: Policy, confidence: float | None = 1.0, **more: Any) -> Rung:
    """One that the ladder accepts."""
    spec = of.arms[arm]
    known: dict[str, Any] = {
        "arm": arm,
        "spec": spec_digest(spec),
        "tier": spec.tier,
        "strategy": spec.strategy,
        "confidence": confidence,
        "samples": 1,
        "tokens": 30,
        "completion_tokens": 20,
    }
    return Rung(**(known | more))


def truth(dear_share_of_hard: float) -> Mapping[str, float]:
    """Accuracy and tokens where that share of hard requests starts at the dear arm, and no easy one."""
    s = dear_share_of_hard
    hard = s * WORTH[DEAR]["hard"] + (1 - s) * WORTH[CHEAP]["hard"]
    mean = float(np.exp(0.3**2 / 2))  # of the lognormal noise
    tokens = PROMPT + mean * (0.5 * TOKENS[CHEAP] + 0.5 * (s * TOKENS[DEAR] + (1 - s) * TOKENS[CHEAP]))
    return {"accuracy": 0.5 * WORTH[CHEAP]["easy"] + 0.5 * hard, "tokens": tokens}
