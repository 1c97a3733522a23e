"""One request's plans: what it asks for, what is predicted, and what holds at the moment."""

from __future__ import annotations

from collections.abc import Mapping

from classifier.predictor import Prediction
from policies.conditions import Conditions, SpentShare
from policies.pacing import Pace
from policies.plan import ArmEstimate, Ask, Plan
from policies.planner import make_plan
from policies.schema import Policy, TenantPolicy
from router.errors import ModelNotFound
from router.health import HealthBoard
from router.request import RouteRequest

AUTO = "auto"


def ask_of(request: RouteRequest, prompt_tokens: int) -> Ask:
    """What the planner is asked for a request."""
    return Ask(
        prompt_tokens=prompt_tokens,
        tier=None if request.model == AUTO else request.model,
        effort=request.effort,
        strategy=request.strategy,
        max_samples=request.max_samples,
        max_completion_tokens=request.max_completion_tokens,
        max_total_tokens=request.max_total_tokens,
        deadline_s=request.deadline_s,
        min_quality=request.min_quality,
        allow_degrade=request.allow_degrade,
        choices=request.n,
    )


class Planning:
    """Plans one request, again as refusals come in; the tiers and the pace stay as they were at first.

    `draw` is its lot where the tenant explores.
    """

    def __init__(
        self,
        request: RouteRequest,
        tenant: TenantPolicy,
        policy: Policy,
        prediction: Prediction,
        *,
        prompt_tokens: int,
        tiers: tuple[str, ...],
        board: HealthBoard,
        pace: Pace,
        probing: bool = True,
        draw: float | None = None,
    ) -> None:
        self._draw = draw
        self._request = request
        self._tenant = tenant
        self._policy = policy
        self._prompt_tokens = prompt_tokens
        self._tiers = tiers
        self._states = board.states(tiers, probing=probing)
        self._pace = pace
        self.estimates = {
            arm: ArmEstimate(prediction.p[arm], prediction.tokens[arm], prediction.tokens_high[arm])
            for arm in policy.arms
            if arm in prediction.p
        }

    def plan(
        self,
        remaining_tokens: int | None = None,
        retry_after_s: float | None = None,
        only: frozenset[str] | None = None,
        spent_shares: Mapping[str, SpentShare] | None = None,
    ) -> Plan:
        """Raises PlanRefused, ModelNotFound."""
        return self._plan(remaining_tokens, retry_after_s, only, spent_shares, self._draw)

    def sure(
        self,
        remaining_tokens: int | None = None,
        retry_after_s: float | None = None,
        only: frozenset[str] | None = None,
        spent_shares: Mapping[str, SpentShare] | None = None,
    ) -> Plan:
        """As `plan`, with nothing left to chance."""
        return self._plan(remaining_tokens, retry_after_s, only, spent_shares, None)

    def _plan(
        self,
        remaining_tokens: int | None,
        retry_after_s: float | None,
        only: frozenset[str] | None,
        spent_shares: Mapping[str, SpentShare] | None,
        draw: float | None,
    ) -> Plan:
        request = self._request
        deployed = frozenset(self._tiers)
        if request.model != AUTO and request.model not in self._tiers:
            known = ", ".join((AUTO, *self._tiers))
            raise ModelNotFound(f"there is no model {request.model!r}; ask for one of {known}", param="model")
        return make_plan(
            ask_of(request, self._prompt_tokens),
            self._tenant,
            self._policy,
            self.estimates,
            remaining_tokens=remaining_tokens,
            available_tiers=deployed if only is None else deployed & only,
            retry_after_s=retry_after_s,
            now=Conditions(tiers=self._states, spent_shares=spent_shares or {}, pace=self._pace),
            draw=draw,
        )
