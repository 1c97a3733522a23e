"""One line a request for the operators' log: what was decided, what it cost. Never what was asked or said."""

from __future__ import annotations

import json
import logging
from math import isnan

from router.request import Caller, Receipt

log = logging.getLogger("acr.decisions")


def log_decision(caller: Caller, receipt: Receipt, request_id: str) -> None:
    """Write the decision as JSON at INFO; costs nothing where that level is off."""
    if not log.isEnabledFor(logging.INFO):
        return
    log.info(
        json.dumps(
            {
                "decision_id": receipt.decision_id,
                "request_id": request_id,
                "tenant": caller.tenant,
                "key_id": caller.key_id,
                "arms_tried": receipt.arms_tried,
                "tier": receipt.tier,
                "strategy": receipt.strategy,
                "samples": receipt.samples_used,
                "stop_reason": receipt.stop_reason,
                "confidence": receipt.confidence,
                "difficulty": receipt.difficulty,
                "verified": receipt.verified,
                "cache": receipt.cache,
                "degraded": receipt.degraded,
                "hopeless": receipt.hopeless,
                "explored": receipt.explored,
                "tokens": receipt.spend.total,
                "charged_tokens": receipt.charged_tokens,
                "gpu_seconds": receipt.gpu_seconds,
                "cost_usd": None if isnan(receipt.cost_usd) else receipt.cost_usd,
                "overhead_ms": round(receipt.overhead_ms, 3),
                "policy_version": receipt.policy_version,
                "classifier_version": receipt.classifier_version,
            }
        )
    )
