"""What a decision tells about drift: which outcome may be held against which prediction."""

from __future__ import annotations

from classifier.drift.tally import Seen
from classifier.features import COUNT
from router.decisions.record import Decision


def seen_of(decision: Decision) -> Seen | None:
    """None where nothing was predicted: cache hits, most refusals, other features."""
    if not decision.arms or len(decision.structural) != COUNT or decision.ood is None:
        return None
    arms = {name: (each.p, each.tokens, each.tokens_high) for name, each in decision.arms.items()}
    arm = decision.rungs[0].arm if decision.rungs else None
    known = arm is not None and arm in arms
    return Seen(
        decision.structural,
        decision.ood,
        arms,
        arm if known else None,
        first_reward(decision) if known else None,
        _tokens(decision) if known else None,
    )


def first_reward(decision: Decision) -> float | None:
    """What the first arm's answer was worth; None where that is not known. Confidence is no outcome.

    A plan that climbs when it is not confident shows its first arm's answer only where that looked right:
    those answers are better than predicted by selection, and are left out unless a check judged the first.
    """
    if not decision.rungs:
        return None
    first = decision.rungs[0]
    if awaits_feedback(decision):
        return decision.reward
    return None if first.verified is None else float(first.verified)


def awaits_feedback(decision: Decision) -> bool:
    """Whether a score of the answer is one of the first arm, whatever that answer looked like."""
    if len(decision.rungs) != 1:
        return False
    return len(decision.plan) <= 1 or decision.rungs[0].verified is not None


def _tokens(decision: Decision) -> int | None:
    """Completion tokens of the first arm, where the caller asked for one answer and set no lower bounds."""
    ask, spent = decision.ask, decision.rungs[0].completion_tokens
    bounded = ask.get("max_samples") is not None or ask.get("max_total_tokens") is not None
    if decision.outcome != "answered" or not spent or bounded or (ask.get("choices") or 1) != 1:
        return None
    return spent
