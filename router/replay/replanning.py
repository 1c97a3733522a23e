"""What another policy would have planned for a logged decision: its own start, and any that it might draw."""

from __future__ import annotations

from dataclasses import dataclass

from policies.arm_spec import TIERS
from policies.conditions import Conditions
from policies.pacing import EVEN, Pace
from policies.plan import Ask, Plan
from policies.planner import make_plan
from policies.schema import Policy, TenantPolicy
from router.decisions.record import Decision

_DRAWS = 256  # tries until chance starts where it is wanted; one of k arms takes about k


@dataclass(frozen=True, slots=True)
class Replanning:
    """One logged decision under another policy; every tier is taken as deployed and well."""

    decision: Decision
    ask: Ask
    policy: Policy
    tenant: TenantPolicy
    room_tokens: int | None
    retry_after_s: float | None
    pace: Pace = EVEN

    def plan(self, draw: float | None = None) -> Plan:
        """With nothing left to chance, or with a lot. Raises PlanRefused."""
        known = {arm: e for arm, e in self.decision.arms.items() if arm in self.policy.arms}
        return make_plan(
            self.ask,
            self.tenant,
            self.policy,
            known,
            remaining_tokens=self.room_tokens,
            available_tiers=frozenset(TIERS),
            retry_after_s=self.retry_after_s,
            now=Conditions(pace=self.pace),
            draw=draw,
        )

    def own(self) -> Plan:
        """The policy's own choice, with the propensities of every start in `starts`."""
        rate = self.tenant.exploration.rate
        return self.plan(
            None if rate <= 0.0 else (1.0 + rate) / 2.0
        )  # a lot above the rate leaves it as it is

    def begun_at(self, arm: str, own: Plan) -> Plan | None:
        """The plan that starts at `arm`, None where chance never starts there."""
        if own.start.arm == arm:
            return own
        if own.starts.get(arm, 0.0) <= 0.0:
            return None
        for tried in range(_DRAWS):
            found = self.plan(self.tenant.exploration.rate * (tried + 0.5) / _DRAWS)
            if found.start.arm == arm:
                return found
        return None
