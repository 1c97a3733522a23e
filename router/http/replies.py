"""A finished reply as OpenAI's `chat.completion`, its usage and the receipt in it."""

from __future__ import annotations

from typing import Any

from router.http.headers import json_headers, limit_headers, receipt_headers
from router.http.wire import Wire, finite, to_json
from router.request import Receipt, Reply


def reply_wire(reply: Reply, request_id: str) -> Wire:
    """200 with the completion and every header that the receipt and the limits give."""
    headers = json_headers(request_id)
    headers += limit_headers(reply.limits)
    headers += receipt_headers(reply.receipt)
    return Wire(200, headers, to_json(completion(reply)))


def completion(reply: Reply) -> dict[str, Any]:
    return {
        "id": reply.id,
        "object": "chat.completion",
        "created": reply.created_s,
        "model": reply.model,
        "choices": [
            {
                "index": index,
                "message": {"role": "assistant", "content": choice.text, "refusal": None},
                "logprobs": None,
                "finish_reason": choice.finish_reason,
            }
            for index, choice in enumerate(reply.choices)
        ],
        "usage": usage(reply.receipt),
    }


def usage(receipt: Receipt) -> dict[str, Any]:
    """Everything spent. `total_tokens` is what the budget was charged.

    That is the sum of prompt and completion tokens, except for a cache hit that the policy charges for:
    it computed nothing. `reasoning_tokens` are the completion tokens that did not end up in the answer.
    """
    spend = receipt.spend
    return {
        "prompt_tokens": spend.prompt,
        "completion_tokens": spend.completion,
        "total_tokens": receipt.charged_tokens,
        "prompt_tokens_details": {"cached_tokens": spend.prompt_cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": spend.completion - spend.completion_kept,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
            "audio_tokens": 0,
        },
        "compute": compute(receipt),
    }


def compute(receipt: Receipt) -> dict[str, Any]:
    """The receipt: what was done, why, and what it cost by kind."""
    spend = receipt.spend
    return {
        "decision_id": receipt.decision_id,
        "lease_id": receipt.lease_id,
        "arms_tried": receipt.arms_tried,
        "tier": receipt.tier,
        "strategy": receipt.strategy,
        "samples": {
            "planned": receipt.samples_planned,
            "used": receipt.samples_used,
            "cancelled": receipt.samples_cancelled,
        },
        "stop_reason": receipt.stop_reason,
        "confidence": finite(receipt.confidence),
        "difficulty": finite(receipt.difficulty),
        "answer": receipt.answer,
        "verified": receipt.verified,
        "tokens": {
            "prompt_computed": spend.prompt_computed,
            "prompt_cached": spend.prompt_cached,
            "completion_kept": spend.completion_kept,
            "completion_discarded": spend.completion_discarded,
            "verifier": spend.verifier,
            "total": spend.total,
        },
        "engine_calls": spend.calls,
        "charged_tokens": receipt.charged_tokens,
        "saved_tokens": receipt.saved_tokens,
        "gpu_seconds": finite(receipt.gpu_seconds),
        "flops": finite(receipt.flops),
        "cost_usd": finite(receipt.cost_usd),
        "cache": receipt.cache,
        "similarity": finite(receipt.similarity),
        "degraded": receipt.degraded,
        "hopeless": receipt.hopeless,
        "reasons": receipt.reasons,
        "policy_version": receipt.policy_version,
        "classifier_version": receipt.classifier_version,
        "engine_model": receipt.engine_model,
        "overhead_ms": finite(receipt.overhead_ms),
        "budget_remaining": receipt.budget_remaining,
    }
