"""Exact replay: a whole policy on an outcome table; planner, ladder, stopping and confidences as they are.

    recorded = read_recording("table.jsonl", policy)
    believed = beliefs(recorded.table, artifact)
    found = replay_table(policy, recorded, believed, tenant=policy.tenants["demo"])
    found.scores.mean(), found.charged_tokens.mean()

A frontier of the whole service is this with other tenants: `tenant.model_copy(update={"quality_target": 0.6,
"cost_weight": 0.05})`; recording and beliefs are read once.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from backends.engines.base import Message, Role
from backends.task import TierResult
from classifier.predictor import Prediction
from policies.amounts import NOTHING, Amount
from policies.errors import PlanRefused
from policies.plan import ArmEstimate, Ask, Plan, Step
from policies.planner import make_plan
from policies.schema import Policy, TenantPolicy
from router.decisions.digests import spec_digest
from router.decisions.record import Rung
from router.estimate import estimated_prompt_tokens
from router.execution import Execution
from router.holding import Tariff
from router.replay.beliefs import Beliefs
from router.replay.drawing import STANDS, RecordedTiers, score_of
from router.replay.recording import Cell, Recording
from router.request import RouteRequest

BYTES_PER_TOKEN = 3.0
NO_HURRY_S = 1e6  # a replay takes no time, and a slow machine must not cut it


@dataclass(frozen=True, slots=True)
class PromptOutcome:
    """What the service would have made of one prompt: `table.items[item]`.

    `score` of the answer that is given, 0 where the plan is refused (`refusal`: the error's name). Tokens are
    those of all rungs: completions, and what a budget is charged. `stood`: an arm was taken as recorded,
    since its samples were not, so its evidence is unknown. `ran_dry`: it would have drawn more samples than
    there are.
    """

    item: int
    score: float
    completion_tokens: int
    charged_tokens: int
    arms_tried: tuple[str, ...]
    planned: tuple[str, ...] = ()
    rungs: tuple[Rung, ...] = ()
    refusal: str | None = None
    degraded: bool = False
    hopeless: bool = False
    stood: bool = False
    ran_dry: bool = False
    gpu_seconds: float = 0.0
    cost_usd: float = 0.0


@dataclass(frozen=True, slots=True)
class TableReplay:
    """The outcomes of all prompts in the order of the table."""

    outcomes: tuple[PromptOutcome, ...]

    @property
    def scores(self) -> NDArray[np.float64]:
        return np.array([o.score for o in self.outcomes])

    @property
    def completion_tokens(self) -> NDArray[np.float64]:
        return np.array([float(o.completion_tokens) for o in self.outcomes])

    @property
    def charged_tokens(self) -> NDArray[np.float64]:
        return np.array([float(o.charged_tokens) for o in self.outcomes])

    def share_of(self, told: Callable[[PromptOutcome], bool]) -> float:
        return sum(told(o) for o in self.outcomes) / max(1, len(self.outcomes))

    def answered_by(self) -> Mapping[str, int]:
        """How many prompts each arm had the last word on."""
        return Counter(o.arms_tried[-1] for o in self.outcomes if o.arms_tried)


def replay_table(
    policy: Policy,
    recorded: Recording,
    believed: Beliefs,
    *,
    tenant: TenantPolicy,
    ask: Ask | None = None,
    tariffs: Mapping[str, Tariff] | None = None,
    done: Callable[[], None] = lambda: None,
) -> TableReplay:
    """Carry out the policy's plan for every prompt that is predicted, on what was recorded.

    `ask` is what every request asks for, nothing where it is left out; `prompt_tokens` are estimated from
    each prompt. Budgets are taken as full. `done` is called after each prompt. Not to be called where an
    event loop runs; `replayed` is for there.
    """
    return asyncio.run(replayed(policy, recorded, believed, tenant, ask, tariffs or {}, done))


async def replayed(
    policy: Policy,
    recorded: Recording,
    believed: Beliefs,
    tenant: TenantPolicy,
    ask: Ask | None = None,
    tariffs: Mapping[str, Tariff] | None = None,
    done: Callable[[], None] = lambda: None,
) -> TableReplay:
    """As `replay_table`, on the running event loop."""
    found = []
    asked = ask or Ask(prompt_tokens=0)
    for item, prediction in zip(believed.at.tolist(), believed.predictions, strict=True):
        found.append(await _prompt(policy, recorded, item, prediction, tenant, asked, tariffs or {}))
        done()
    return TableReplay(tuple(found))


async def _prompt(
    policy: Policy,
    recorded: Recording,
    item: int,
    prediction: Prediction,
    tenant: TenantPolicy,
    asked: Ask,
    tariffs: Mapping[str, Tariff],
) -> PromptOutcome:
    try:
        plan = planned(policy, recorded, item, prediction, tenant, asked)
    except PlanRefused as refused:
        return PromptOutcome(item, 0.0, 0, 0, (), refusal=type(refused).__name__)
    return await carried_out(plan, policy, recorded, item, prediction, asked, tariffs)


def planned(
    policy: Policy,
    recorded: Recording,
    item: int,
    prediction: Prediction,
    tenant: TenantPolicy,
    asked: Ask,
    draw: float | None = None,
) -> Plan:
    """The policy's plan for one prompt, of the arms that were recorded. Raises PlanRefused."""
    known = [arm for arm in recorded.cells[item] if arm in prediction.p]
    return make_plan(
        asked_of(recorded, item, asked),
        tenant,
        policy.without(set(policy.arms) - set(known)),
        {
            arm: ArmEstimate(prediction.p[arm], prediction.tokens[arm], prediction.tokens_high[arm])
            for arm in known
        },
        remaining_tokens=None,
        available_tiers=frozenset(tenant.tiers),
        draw=draw,
    )


def asked_of(recorded: Recording, item: int, asked: Ask) -> Ask:
    """What is asked of every prompt, with this one's estimated size."""
    messages = _messages(recorded.table.items[item].messages)
    return replace(asked, prompt_tokens=estimated_prompt_tokens(messages, BYTES_PER_TOKEN))


async def carried_out(
    plan: Plan,
    policy: Policy,
    recorded: Recording,
    item: int,
    prediction: Prediction,
    asked: Ask,
    tariffs: Mapping[str, Tariff],
) -> PromptOutcome:
    """A plan on what was recorded, rung after rung."""
    by_tier = {step.tier: recorded.cells[item][step.arm] for step in plan.steps}
    tiers = RecordedTiers(by_tier, tariffs)
    messages = _messages(recorded.table.items[item].messages)
    request = RouteRequest("replay", "auto", messages, max_total_tokens=asked.max_total_tokens)
    whole = replace(plan, timeout_s=NO_HURRY_S, steps=_until_it_stands(plan, by_tier))
    execution = Execution(tiers, whole, request, _OpenHold(), "replay", prediction.confidence)
    outcome = await execution.run(None)
    return PromptOutcome(
        item=item,
        score=score_of(outcome.result, by_tier),
        completion_tokens=outcome.spend.completion,
        charged_tokens=outcome.spend.total,
        arms_tried=outcome.arms_tried,
        planned=tuple(step.arm for step in plan.steps),
        rungs=tuple(_rung(step, result, policy) for step, result in execution.results),
        degraded=outcome.degraded,
        hopeless=plan.hopeless,
        stood=outcome.result.stop_reason == STANDS,
        ran_dry=tiers.ran_dry,
        gpu_seconds=outcome.gpu_seconds,
        cost_usd=outcome.cost_usd,
    )


def _rung(step: Step, result: TierResult, policy: Policy) -> Rung:
    """As the decision log would have it."""
    return Rung(
        arm=step.arm,
        spec=spec_digest(policy.arms[step.arm]),
        tier=step.tier,
        strategy=result.strategy,
        confidence=result.confidence,
        verified=result.verified,
        stop_reason=result.stop_reason,
        samples=result.used,
        tokens=result.spend.total,
        completion_tokens=result.spend.completion,
    )


def _until_it_stands(plan: Plan, cells: Mapping[str, Cell]) -> tuple[Step, ...]:
    """The ladder up to the first arm whose samples were not recorded.

    Of its evidence nothing is known, so nothing could say whether the ladder goes on: its answer stands.
    """
    for index, step in enumerate(plan.steps):
        if not cells[step.tier].pool:
            return plan.steps[: index + 1]
    return plan.steps


def _messages(turns: Sequence[Mapping[str, str]]) -> tuple[Message, ...]:
    """A table's turns; roles that engines do not know count as the user's."""
    return tuple(Message(_role(turn["role"]), turn["content"]) for turn in turns)


def _role(name: str) -> Role:
    return name if name in ("system", "assistant") else "user"  # type: ignore[return-value]


class _OpenHold:
    """A lease that covers whatever is asked of it."""

    def __init__(self) -> None:
        self.id = ""
        self.held = NOTHING

    async def extend(self, extra: Amount) -> None:
        self.held += extra

    async def known(self, used: Amount) -> Amount | None:
        return used
