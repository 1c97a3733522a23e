"""Examples of the OpenAPI document; a test holds each against the schema it illustrates."""

from __future__ import annotations

from typing import Any

REQUESTS: dict[str, dict[str, Any]] = {
    "simple": {
        "model": "auto",
        "messages": [{"role": "user", "content": "What is 17 times 23?"}],
    },
    "with a ceiling and a check": {
        "model": "auto",
        "messages": [
            {"role": "system", "content": "Answer with the number only."},
            {"role": "user", "content": [{"type": "text", "text": "How many primes are below 100?"}]},
        ],
        "reasoning_effort": "high",
        "max_completion_tokens": 256,
        "compute": {
            "max_samples": 16,
            "max_total_tokens": 8000,
            "deadline_ms": 20000,
            "min_quality": 0.9,
            "verify": {"type": "number", "minimum": 0, "integer": True},
        },
    },
    "streamed": {
        "model": "consistency",
        "messages": [{"role": "user", "content": "Is 2027 prime? Answer yes or no."}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "compute": {"progress": True, "verify": {"type": "choice", "choices": ["yes", "no"]}},
    },
}

COMPUTE: dict[str, Any] = {
    "decision_id": "dec_01",
    "lease_id": "lease_01",
    "arms_tried": ["direct", "consistency/sc16"],
    "tier": "consistency",
    "strategy": "self_consistency",
    "samples": {"planned": 16, "used": 7, "cancelled": 2},
    "stop_reason": "confident",
    "confidence": 0.97,
    "difficulty": 0.62,
    "answer": "25",
    "verified": True,
    "tokens": {
        "prompt_computed": 48,
        "prompt_cached": 288,
        "completion_kept": 61,
        "completion_discarded": 402,
        "verifier": 0,
        "total": 799,
    },
    "engine_calls": 9,
    "charged_tokens": 799,
    "saved_tokens": 0,
    "gpu_seconds": 0.84,
    "flops": 2.2e11,
    "cost_usd": 0.0007,
    "cache": "miss",
    "similarity": None,
    "degraded": False,
    "hopeless": False,
    "reasons": ["cheapest arm that meets 0.90"],
    "policy_version": "p7",
    "classifier_version": "c3",
    "engine_model": "SmolLM2-135M-Instruct",
    "overhead_ms": 2.1,
    "budget_remaining": 991201,
}

COMPLETION: dict[str, Any] = {
    "id": "chatcmpl-01",
    "object": "chat.completion",
    "created": 1767225600,
    "model": "auto",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "25", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {
        "prompt_tokens": 336,
        "completion_tokens": 463,
        "total_tokens": 799,
        "prompt_tokens_details": {"cached_tokens": 288, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 402,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
            "audio_tokens": 0,
        },
        "compute": COMPUTE,
    },
}

_HEAD = '"id":"chatcmpl-01","object":"chat.completion.chunk","created":1767225600,"model":"auto"'


def _chunk(delta: str, finish: str = "null") -> str:
    choice = f'{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{finish}}}'
    return f'data: {{{_HEAD},"choices":[{choice}],"usage":null}}\n\n'


STREAM = (
    ": keep-alive\n\n"
    ': acr.progress {"samples_done":4,"leader":"no","confidence":0.81,"tokens":512}\n\n'
    + _chunk('{"role":"assistant","content":""}')
    + _chunk('{"content":"yes"}')
    + _chunk("{}", '"stop"')
    + f'data: {{{_HEAD},"choices":[],'
    + '"usage":{"prompt_tokens":336,"completion_tokens":463,"total_tokens":799}}\n\n'
    + "data: [DONE]\n\n"
)

EXPLANATION: dict[str, Any] = {
    "arm": "consistency/sc16",
    "difficulty": 0.62,
    "predictions": {"direct": 0.41, "consistency/sc16": 0.93},
    "reasons": ["cheapest arm that meets 0.90"],
    "policy_version": "p7",
}

FEEDBACK: dict[str, Any] = {"decision_id": "dec-" + 40 * "0", "score": 1.0}

ERROR: dict[str, Any] = {
    "error": {
        "message": "The tenant's daily budget is spent; it is renewed at midnight UTC.",
        "type": "insufficient_quota",
        "param": None,
        "code": "insufficient_quota",
    }
}
