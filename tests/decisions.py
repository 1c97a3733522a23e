"""Decisions for tests: one with everything in it, and the plainest."""

from __future__ import annotations

from typing import Any

from policies.plan import ArmEstimate
from router.decisions.record import Decision, Rung


def plain(**over: Any) -> Decision:
    """What every decision has, and nothing else."""
    known: dict[str, Any] = {
        "decision_id": "dec-1",
        "at_ms": 1_700_000_000_000,
        "tenant": "acme",
        "policy_version": "abcdef012345",
        "outcome": "answered",
    }
    return Decision(**(known | over))


def full(**over: Any) -> Decision:
    """One with a value in every field."""
    known: dict[str, Any] = {
        "key_id": "k1",
        "classifier_version": "c-1",
        "features": "0123456789abcdef",
        "structural": (1.0, -2.5, 0.1),
        "ood": 0.25,
        "ask": {
            "prompt_tokens": 30,
            "effort": "high",
            "allow_degrade": True,
            "deadline_s": 2.5,
            "choices": 1,
        },
        "room_tokens": 1_000,
        "arms": {
            "direct/direct": ArmEstimate(0.3, 20.0, 40.0),
            "consistency/sc8": ArmEstimate(0.9, 200.0, 400.0),
        },
        "plan": ("direct/direct", "consistency/sc8"),
        "starts": {"direct/direct": 0.95, "consistency/sc8": 0.05},
        "explored": False,
        "code": "upstream_error",
        "cache": "miss",
        "rungs": (
            Rung(
                arm="direct/direct",
                spec="01234567",
                tier="direct",
                strategy="direct",
                confidence=0.5,
                verified=False,
                stop_reason="end",
                samples=1,
                tokens=50,
                completion_tokens=20,
            ),
        ),
        "tokens": 50,
        "charged_tokens": 50,
        "gpu_seconds": 0.5,
        "cost_usd": 0.001,
        "degraded": True,
        "hopeless": True,
        "held_back": True,
        "confidence": 0.5,
        "verified": False,
        "messages": ({"role": "user", "content": "höw\u2028much?"},),
        "score": 0.75,
    }
    return plain(**(known | over))
