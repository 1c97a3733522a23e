"""One request's decision while it is made: the stations note what they know, and the end makes a record."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from math import isnan
from typing import Any

from classifier.predictor import Prediction
from policies.plan import ArmEstimate, Plan
from policies.schema import Policy, TenantPolicy
from router.decisions.digests import spec_digest
from router.decisions.record import ASKED, Decision, DecisionOutcome, Rung
from router.errors import RouterError
from router.estimate import estimated_prompt_tokens
from router.execution import Execution
from router.lease import Lease
from router.parts import Parts
from router.planning import ask_of
from router.request import Caller, Receipt, RouteRequest

log = logging.getLogger(__name__)

UNKNOWN_TIER = "unknown"


class Notes:
    """Attributes are set as they become known."""

    def __init__(self, decision_id: str, at_ms: int, caller: Caller, request: RouteRequest) -> None:
        self._decision_id = decision_id
        self._at_ms = at_ms
        self._caller = caller
        self._request = request
        self.prediction: Prediction | None = None
        self.execution: Execution | None = None
        self.plan: Plan | None = None
        self._room_tokens: int | None = None

    def planned(self, plan: Plan, lease: Lease) -> None:
        """The plan that is held, at once after it is: then the lease knows what was left before."""
        self.plan = plan
        if lease.remaining_tokens is not None:
            self._room_tokens = lease.remaining_tokens + lease.held.tokens

    def answered(self, receipt: Receipt) -> dict[str, Any]:
        """What is known of a request that got its answer."""
        return {
            "outcome": "answered",
            "cache": receipt.cache,
            "tokens": receipt.spend.total,
            "charged_tokens": receipt.charged_tokens,
            "gpu_seconds": _known(receipt.gpu_seconds),
            "cost_usd": _known(receipt.cost_usd),
            "degraded": receipt.degraded,
            # A kept answer's own belief and check are of the request that it was made for.
            "confidence": None if self.execution is None else receipt.confidence,
            "verified": None if self.execution is None else receipt.verified,
        }

    def ended(self, error: BaseException) -> dict[str, Any]:
        """What is known of one that did not."""
        code: str | None = error.code if isinstance(error, RouterError) else "internal_error"
        outcome: DecisionOutcome = "refused" if self.execution is None else "failed"
        if isinstance(error, asyncio.CancelledError):
            outcome, code = "cancelled", None
        elif not isinstance(error, RouterError):
            outcome = "failed"
        if self.execution is None:
            return {"outcome": outcome, "code": code}
        owed = self.execution.owed
        return {
            "outcome": outcome,
            "code": code,
            "tokens": owed.tokens,
            "charged_tokens": owed.tokens,
            # A tier that was left alone in the middle of a run charges what it spends itself, later.
            "gpu_seconds": _known(owed.gpu_seconds) if owed.exact else None,
            "cost_usd": _known(owed.usd) if owed.exact else None,
            "degraded": self.plan is not None and self.plan.degraded,
        }

    def write(self, end: Mapping[str, Any], parts: Parts, tenant: TenantPolicy) -> None:
        """Hand the decision to the log and to the watch over drift.

        Nothing is awaited, so that a cancelled visit has its record too.
        """
        if parts.decisions is None and parts.drift is None:
            return
        bound = parts.decisions.max_prompt_bytes if parts.decisions and tenant.log_prompts else None
        decision = self.record(end, parts.policy, self._asked(parts), bound)
        if parts.decisions is not None:
            parts.decisions.add(decision)
        if parts.drift is not None:
            try:
                parts.drift.add(decision)
            except Exception:  # what only watches fails no request
                log.exception("drift gauges leave decision %s out", self._decision_id)

    def record(
        self, end: Mapping[str, Any], policy: Policy, ask: Mapping[str, Any], prompt_bytes: int | None
    ) -> Decision:
        """The decision. `prompt_bytes` of messages are kept, None keeps none of them."""
        plan, told, caller, request = self.plan, self.prediction, self._caller, self._request
        return Decision(
            decision_id=self._decision_id,
            at_ms=self._at_ms,
            tenant=caller.tenant,
            key_id=caller.key_id,
            policy_version=policy.version,
            classifier_version=told.version if told else "",
            features=(told.features or None) if told else None,
            structural=told.structural if told else (),
            ood=told.ood if told else None,
            ask=ask,
            room_tokens=self._room_tokens,
            arms=_estimates(told) if told else {},
            plan=tuple(step.arm for step in plan.steps) if plan else (),
            starts=plan.starts if plan else {},
            explored=plan is not None and plan.explored,
            hopeless=plan is not None and plan.hopeless,
            held_back=plan is not None and plan.held_back,
            rungs=_rungs(self.execution, policy) if self.execution else (),
            messages=None if prompt_bytes is None else _within(request, prompt_bytes),
            **end,
        )

    def _asked(self, parts: Parts) -> dict[str, Any]:
        """The planner's question. A tier that is none is what a caller wrote: it is not kept."""
        prompt_tokens = estimated_prompt_tokens(self._request.messages, parts.prompt_bytes_per_token)
        ask = ask_of(self._request, prompt_tokens)
        asked = {name: value for name in ASKED if (value := getattr(ask, name)) is not None}
        if asked.get("tier", "") not in ("", *parts.tiers.names):
            asked["tier"] = UNKNOWN_TIER
        return asked


def _known(value: float) -> float | None:
    return None if isnan(value) else value


def _estimates(told: Prediction) -> dict[str, ArmEstimate]:
    return {arm: ArmEstimate(p, told.tokens[arm], told.tokens_high[arm]) for arm, p in told.p.items()}


def _rungs(execution: Execution, policy: Policy) -> tuple[Rung, ...]:
    rungs = []
    for step, result in execution.results:
        rungs.append(
            Rung(
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
        )
    return tuple(rungs)


def _within(request: RouteRequest, most_bytes: int) -> tuple[Mapping[str, str], ...]:
    """The messages, from the last one back as far as they fit; what does not fit is cut."""
    kept: list[Mapping[str, str]] = []
    for message in reversed(request.messages):
        data = message.content.encode("utf-8", "replace")
        kept.append({"role": message.role, "content": data[:most_bytes].decode("utf-8", "ignore")})
        most_bytes -= len(data)
        if most_bytes <= 0:
            break
    return tuple(reversed(kept))
