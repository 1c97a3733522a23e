"""When to stop drawing samples: the Beta rule and the lossless rule.

Votes are given in launch order (or complete waves), never in order of arrival: short answers arrive first, so
stopping on arrivals favours whatever is short.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb


def leader_confidence(leader_votes: int, second_votes: int) -> float:
    """P(the leading answer truly leads) = 1 - I_0.5(v1 + 1, v2 + 1).

    Adaptive-Consistency (arXiv 2305.11860), in its integer form
    I_0.5(a + 1, b + 1) = sum_{k<=b} C(a + b + 1, k) / 2^(a + b + 1).
    """
    n = leader_votes + second_votes + 1
    return 1.0 - sum(comb(n, k) for k in range(second_votes + 1)) / float(2**n)


@dataclass(frozen=True, slots=True)
class Tally:
    """Votes counted: leading answer (None if nobody voted), its votes and the runner-up's."""

    leader: str | None
    leader_votes: int
    second_votes: int
    total: int

    @property
    def confidence(self) -> float | None:
        return None if self.leader is None else leader_confidence(self.leader_votes, self.second_votes)


def tally(answers: Sequence[str | None]) -> Tally:
    """Count answers; None (no answer found) casts no vote. Ties go to the answer seen first."""
    counts = Counter(answer for answer in answers if answer is not None)
    ranked = counts.most_common(2)
    first = ranked[0] if ranked else (None, 0)
    second = ranked[1][1] if len(ranked) > 1 else 0
    return Tally(first[0], first[1], second, len(answers))


def stop_reason(votes: Tally, max_samples: int, confidence: float) -> str | None:
    """Why to stop now, or None: "confident" (Beta), "settled" (no later vote can change the leader)."""
    if votes.leader is None:
        return None
    if leader_confidence(votes.leader_votes, votes.second_votes) >= confidence:
        return "confident"
    if votes.leader_votes - votes.second_votes > max_samples - votes.total:
        return "settled"
    return None


def adaptive_count(answers: Sequence[str | None], max_samples: int, confidence: float) -> int:
    """How many of these recorded answers, in launch order, an adaptive run would have drawn."""
    limit = min(max_samples, len(answers))
    for drawn in range(1, limit):
        if stop_reason(tally(answers[:drawn]), max_samples, confidence) is not None:
            return drawn
    return limit


def counted_as_they_arrive(
    answers: Sequence[str | None], arrivals: Sequence[float], max_samples: int, confidence: float
) -> list[int]:
    """Indices of the answers that a run would count which launches all at once and counts as they arrive.

    For measuring what that does; no strategy counts so. `arrivals` are times or lengths in tokens, in any
    unit: only their order matters, and ties keep the order of launch.
    Against it stands `range(adaptive_count(...))`, the launch order.
    """
    limit = min(max_samples, len(answers))
    order = sorted(range(limit), key=lambda index: arrivals[index])
    return order[: adaptive_count([answers[index] for index in order], max_samples, confidence)]
