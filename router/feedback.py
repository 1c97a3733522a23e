"""What a tenant says that an answer of its own was worth."""

from __future__ import annotations

import secrets

from policies.limit_spec import Limits
from policies.schema import TenantPolicy
from router.decisions.digests import DecisionIds
from router.decisions.errors import LogUnavailable
from router.decisions.log import Feedback
from router.errors import DecisionLogUnavailable, DecisionNotFound
from router.parts import Parts
from router.request import Caller, LimitState
from router.translate import caller_errors, limit_state

REMEMBERED_S = 5.0  # for a repeat of the same call
RETRY_AFTER_S = 1.0


async def give_feedback(
    parts: Parts,
    ids: DecisionIds,
    caller: Caller,
    tenant: TenantPolicy,
    decision_id: str,
    score: float,
) -> LimitState:
    """Keep the score; it counts as a request against the caller's limits.

    Raises RateLimited, StoreUnavailable, DecisionNotFound (another tenant's id, too), DecisionLogUnavailable.
    """
    with caller_errors(parts.policy.version):
        limits = await _admitted(parts, caller, tenant)
        if not ids.owns(caller.tenant, decision_id):
            raise DecisionNotFound(
                "No decision of this key's tenant has this id; send the x-acr-decision-id of a reply.",
                param="decision_id",
            )
        if parts.decisions is None:
            raise DecisionNotFound("This service keeps no decision log, so there is nothing to judge.")
        try:
            await parts.decisions.log.append_feedback(Feedback(decision_id, caller.tenant, score))
        except LogUnavailable as error:
            raise DecisionLogUnavailable(
                "The decision log's store does not answer, so the feedback was not kept; try again soon.",
                retry_after_s=RETRY_AFTER_S,
            ) from error
    if parts.drift is not None:
        parts.drift.feedback(decision_id, score)
    return limits


async def _admitted(parts: Parts, caller: Caller, tenant: TenantPolicy) -> LimitState:
    """Past the limits of requests a minute; it spends no tokens and holds no slot that must be freed."""
    scopes = [
        (scope, Limits(requests_per_minute=limits.requests_per_minute))
        for scope, limits in tenant.limit_scopes(caller.key_id)
    ]
    usage = await parts.limits.admit(
        tenant.name,
        scopes,
        slot_id=secrets.token_hex(8),
        tokens=0,
        least_tokens=0,
        ttl_s=REMEMBERED_S,
    )
    return limit_state(usage)
