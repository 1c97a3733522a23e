"""Whether a logged run is what another policy would have done from the same start, rung by rung."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from policies.plan import Plan, Step
from policies.planner import escalate
from policies.schema import Policy
from router.decisions.digests import spec_digest
from router.decisions.record import Decision, Rung
from router.replay.recording import VOTES

How = Literal["same", "stops", "goes_on", "other"]


@dataclass(frozen=True, slots=True)
class Path:
    """How the other policy's run compares with the logged one.

    "same": it is the logged one. "stops": it would have given the answer of rung `at` already. "goes_on":
    after rung `at` it would have tried `following`, which the log did not. "other": the start itself is
    another, though it has the same name.
    """

    how: How
    at: int = 0
    following: Step | None = None


SAME = Path("same")


def follow(decision: Decision, plan: Plan, policy: Policy) -> Path:
    """Walk the logged rungs under `plan`, which starts where the log did.

    What was logged tells: confidence, the caller's check, why a rung ended. Under the policy that made the
    log the run is the same by definition: it may have ended early for want of budget, or because it was shown
    as it was generated.
    """
    if decision.policy_version == plan.policy_version and _arms(plan) == decision.plan:
        return SAME
    for index, rung in enumerate(decision.rungs):
        if index >= len(plan.steps):
            return Path("stops", index - 1)
        step = plan.steps[index]
        if not _is(rung, step, policy):
            return Path("other") if index == 0 else Path("goes_on", index - 1, step)
        verdict = escalate(
            plan,
            index,
            confidence=rung.confidence,
            verified=rung.verified,
            stop_reason=rung.stop_reason,
        )
        last = index + 1 == len(decision.rungs)
        if verdict.accept and not last:
            return Path("stops", index)
        if not verdict.accept and last and decision.outcome == "answered":
            return Path("goes_on", index, plan.steps[index + 1])
    return SAME if decision.rungs or decision.outcome != "answered" else Path("other")


def _is(rung: Rung, step: Step, policy: Policy) -> bool:
    """The arm by name and by what it does; more samples than the step may draw were another arm's."""
    spec = policy.arms.get(rung.arm)
    if rung.arm != step.arm or spec is None or rung.spec != spec_digest(spec):
        return False
    return rung.strategy not in VOTES or rung.samples <= int(step.params["max_samples"])


def _arms(plan: Plan) -> tuple[str, ...]:
    return tuple(step.arm for step in plan.steps)
