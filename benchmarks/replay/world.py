"""A service with a known truth: prompts drawn from a recorded table, every run replayed from its samples.

A log is the live policy's on so many prompts drawn with replacement, with its exploration; what each start
would have led to is carried out once by the real ladder and kept. Another policy's truth is its mean over the
table.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

import policies
from backends.hardware import CPU, SMOLLM2_135M
from classifier.artifact import load
from classifier.predictor import DEFAULT_ARTIFACT, Prediction
from policies.loader import load_policy
from policies.plan import ArmEstimate, Ask, Plan
from policies.schema import Policy
from router.decisions.record import Decision
from router.holding import Tariff
from router.replay.beliefs import Beliefs, beliefs
from router.replay.recording import Recording, read_recording
from router.replay.table import PromptOutcome, asked_of, carried_out, planned, replay_table

TABLE = Path("benchmarks/data/smollm2_135m.jsonl")
TENANT = "demo"
ASKED = Ask(prompt_tokens=0, effort="high", max_completion_tokens=128)
ARMS = ("direct/direct", "direct/cot", "consistency/sc4", "consistency/sc16")
EVERY_MS = 1_000
TARIFFS = dict.fromkeys(("direct", "consistency", "search"), Tariff(SMOLLM2_135M, CPU))


def changed(policy: Policy, **fields: object) -> Policy:
    """The policy with other settings of the tenant, and the version that they give it."""
    document = policy.document.model_dump(mode="json", exclude_unset=False)
    document["tenants"][TENANT] |= fields
    document["tenants"] = {name: _own(tenant) for name, tenant in document["tenants"].items()}
    return Policy.of(type(policy.document).model_validate(document))


def _own(tenant: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in tenant.items() if name != "name"}


def live_policy(rate: float) -> Policy:
    """The shipped policy with the arms that were recorded, exploring."""
    default = load_policy(Path(policies.__file__).parent / "default.yaml")
    kept = {name: spec for name, spec in default.arms.items() if name in ARMS}
    fewer = replace(default, document=default.document.model_copy(update={"arms": kept}))
    return changed(fewer, exploration={"rate": rate}, budgets={})


@dataclass(slots=True)
class World:
    """The table, what is believed of it, and the live policy; `outcomes` are kept by prompt and start."""

    recorded: Recording
    predictions: tuple[Prediction, ...]
    live: Policy
    _own: dict[int, Plan] = field(default_factory=dict)
    _runs: dict[tuple[int, str], tuple[Plan, PromptOutcome]] = field(default_factory=dict)

    @classmethod
    def of(cls, table: Path, live: Policy, seed: int = 0) -> World:
        recorded = read_recording(table, live)
        return cls(recorded, beliefs(recorded.table, load(DEFAULT_ARTIFACT), seed).predictions, live)

    def log(self, count: int, seed: int, feedback: float) -> list[Decision]:
        """`count` decisions; a share of them gets feedback, whatever the answer."""
        rng = np.random.default_rng([seed, 7])
        items = rng.integers(len(self.predictions), size=count).tolist()
        told = rng.random(count) < feedback
        runner = asyncio.Runner()
        with runner:
            return [
                self._decision(runner, at, item, float(rng.random()), bool(told[at]))
                for at, item in enumerate(items)
            ]

    def truth(self, policy: Policy) -> Mapping[str, float]:
        """What the policy comes to over the whole table, by the names of the measures."""
        at = np.arange(len(self.predictions))
        believed = Beliefs(at, self.predictions, "")
        outcomes = replay_table(
            policy, self.recorded, believed, tenant=policy.tenants[TENANT], ask=ASKED, tariffs=TARIFFS
        ).outcomes
        found = {
            "accuracy": np.mean([o.score for o in outcomes]),
            "tokens": np.mean([o.charged_tokens for o in outcomes]),
            "charged_tokens": np.mean([o.charged_tokens for o in outcomes]),
            "cost_usd": np.mean([o.cost_usd for o in outcomes]),
            "gpu_seconds": np.mean([o.gpu_seconds for o in outcomes]),
        }
        for tier in ("direct", "consistency"):
            found[tier] = np.mean([o.arms_tried[-1].startswith(tier) for o in outcomes])
        return {name: float(value) for name, value in found.items()}

    def _decision(self, runner: asyncio.Runner, at: int, item: int, draw: float, told: bool) -> Decision:
        prediction = self.predictions[item]
        own = self._own.get(item)
        rate = self.live.tenants[TENANT].exploration.rate
        if own is None:
            own = self._own[item] = self._plan(item, 1.0 - 1e-9)
        start = own.start.arm
        if draw < rate:  # uniform over the starts, as the planner draws
            start = sorted(own.starts)[int(draw / rate * len(own.starts))]
        plan, outcome = self._run(runner, item, start, own)
        return Decision(
            decision_id=f"dec-{at}",
            at_ms=1_700_000_000_000 + at * EVERY_MS,
            tenant=TENANT,
            policy_version=self.live.version,
            outcome="answered",
            ask={"prompt_tokens": asked_of(self.recorded, item, ASKED).prompt_tokens}
            | {"effort": ASKED.effort, "max_completion_tokens": ASKED.max_completion_tokens},
            arms={
                arm: ArmEstimate(p, prediction.tokens[arm], prediction.tokens_high[arm])
                for arm, p in prediction.p.items()
            },
            plan=tuple(step.arm for step in plan.steps),
            starts=own.starts,
            explored=draw < rate,
            cache="bypass",
            rungs=outcome.rungs,
            tokens=outcome.charged_tokens,
            charged_tokens=outcome.charged_tokens,
            gpu_seconds=outcome.gpu_seconds,
            cost_usd=outcome.cost_usd,
            degraded=outcome.degraded,
            confidence=outcome.rungs[-1].confidence,
            score=outcome.score if told else None,
        )

    def _run(self, runner: asyncio.Runner, item: int, start: str, own: Plan) -> tuple[Plan, PromptOutcome]:
        found = self._runs.get((item, start))
        if found is None:
            plan, rate, tried = own, self.live.tenants[TENANT].exploration.rate, 0
            while plan.start.arm != start:
                plan = self._plan(item, rate * ((tried * 0.6180339887) % 1.0))
                tried += 1
            told = carried_out(plan, self.live, self.recorded, item, self.predictions[item], ASKED, TARIFFS)
            found = self._runs[item, start] = (plan, runner.run(told))
        return found

    def _plan(self, item: int, draw: float) -> Plan:
        tenant = self.live.tenants[TENANT]
        return planned(self.live, self.recorded, item, self.predictions[item], tenant, ASKED, draw)
