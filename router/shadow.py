"""A shadow policy: what it would have planned beside what was planned. It never acts, fails or waits.

Only plans are compared: the same request and prediction, no limits, no reservation, no cache.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass

from policies.errors import PlanRefused
from policies.plan import Plan
from policies.schema import Policy
from policies.versions import Tally
from router.errors import RouterError
from router.request import Caller

log = logging.getLogger("acr.shadow")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that is planned, and the policy that decides it."""

    decision_id: str
    caller: Caller
    policy: Policy


class Shadow:
    """Compares requests with what `policy` would have done, and counts. For one event loop."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.tally = Tally()

    def compare(self, asked: Asked, plan: Callable[[Policy], Plan]) -> None:
        """Later, when the request waits for its tier: it is not kept waiting for this."""
        asyncio.get_running_loop().call_soon(self._compare, asked, plan)

    def _compare(self, asked: Asked, plan: Callable[[Policy], Plan]) -> None:
        try:
            done, would = _planned(plan, asked.policy), _planned(plan, self.policy)
        except Exception as error:  # counted: nothing that a shadow does may reach a request
            self.tally = self.tally.plus(Tally(errors=1))
            log.warning("the shadow policy %s failed: %s", self.policy.version, type(error).__name__)
            return
        arm, other = done.start.arm if done else None, would.start.arm if would else None
        tokens = done.start.budget_tokens if done else 0
        shadow_tokens = would.start.budget_tokens if would else 0
        self.tally = self.tally.plus(
            Tally(
                planned=1,
                differ=int(arm != other),
                refused=int(would is None),
                tokens=tokens,
                shadow_tokens=shadow_tokens,
            )
        )
        if log.isEnabledFor(logging.INFO):
            log.info(
                json.dumps(
                    {
                        "decision_id": asked.decision_id,
                        "tenant": asked.caller.tenant,
                        "key_id": asked.caller.key_id,
                        "policy_version": asked.policy.version,
                        "shadow_version": self.policy.version,
                        "arm": arm,
                        "shadow_arm": other,
                        "tokens": tokens,
                        "shadow_tokens": shadow_tokens,
                    }
                )
            )


def _planned(plan: Callable[[Policy], Plan], policy: Policy) -> Plan | None:
    """None where the policy refuses the request."""
    try:
        return plan(policy)
    except (PlanRefused, RouterError):
        return None
