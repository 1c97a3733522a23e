"""Self-certainty: how far a reply's next-token distributions are from uniform (arXiv 2502.18581)."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log
from typing import TYPE_CHECKING

from backends.errors import StrategyUnsupported

if TYPE_CHECKING:
    from backends.strategies.base import Run
    from backends.task import Sample

CERTAINTY = "self_certainty"
MAX_ALTERNATIVES = 20  # what every engine with top log-probabilities tells
MIN_LOG_RATIO = -50.0  # an alternative of probability 0 must not outweigh a whole reply


async def self_certainty(run: Run, replies: Sequence[Sample]) -> list[float | None]:
    """KL divergence from uniform in nats, at least 0. Free: the draws asked for the alternatives already.

    None for a sample drawn without them, such as one carried in from another tier.
    Raises StrategyUnsupported where the engine tells fewer than two alternatives.
    """
    if run.engine.info.top_logprobs < 2:
        raise StrategyUnsupported(
            f"{run.engine.info.model} tells no alternative tokens to compute self-certainty from"
        )
    return [reply.certainty for reply in replies]


def certainty(top_logprobs: Sequence[Sequence[float]]) -> float | None:
    """Mean over the tokens of KL(U || p) = -1/k sum_j log(k p_j), over the k likeliest tokens alone.

    The paper sums over the whole vocabulary; an engine tells k of it, so p is normalised over those. Tokens
    with fewer than two alternatives are left out; None if there are no others.
    """
    terms = [_divergence(logs) for logs in top_logprobs if len(logs) > 1]
    return sum(terms) / len(terms) if terms else None


def _divergence(logs: Sequence[float]) -> float:
    highest = max(logs)
    # Shifted by the largest, so that no exponential overflows and the sum is at least 1.
    total = log(sum(exp(value - highest) for value in logs)) + highest
    ratios = [max(log(len(logs)) + value - total, MIN_LOG_RATIO) for value in logs]
    return max(0.0, -sum(ratios) / len(ratios))
