"""REBASE: a step's children are shared out among the nodes by their scores (Wu et al., arXiv 2408.00724).

Node j of a step gets W_j = round(B softmax(R_j / T_b)) children, with R_j its score in [0, 1] and T_b the
balance temperature. B begins at `max_samples` and falls by one with every leaf, so that a search finds
`max_samples` leaves at most. Where a beam cuts off all but the best, this leaves weaker nodes fewer children.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, floor

from backends.strategies.anytime import TreeResult, search
from backends.strategies.base import Run
from backends.strategies.ranking import weights
from backends.strategies.tree import Node, Tree, best_first, distinct


@dataclass(frozen=True, slots=True)
class RebaseResult(TreeResult):
    """`widths` are the children asked of each node, best node first, a tuple a step."""

    widths: tuple[tuple[int, ...], ...]


async def rebase(run: Run) -> RebaseResult:
    """Search until all of B has become leaves ("leaves"), no later leaf can change the answer ("settled"), or
    `max_steps`.

    Nodes with the same text are one: their copies would search the same tree twice. A leaf that passes the
    caller's check ends it; where all fail, it begins again while there are steps. See `anytime.search` for
    what else ends it and what is raised.
    """
    params = run.params
    steps: list[tuple[int, ...]] = []

    async def spread(tree: Tree) -> str:
        tree.live = [Node()]
        while tree.live:
            left = params.max_samples - len(tree.leaves)
            if left <= 0:
                break
            if tree.votes().settled(left):
                return "settled"
            if tree.rounds == params.max_steps:
                return "max_steps"
            rewards = weights(params.scorer, [node.score for node in tree.live])
            steps.append(widths(rewards, left, params.balance_temperature))
            shared = zip(tree.live, steps[-1], strict=True)
            grown = await tree.grow([node for node, width in shared for _ in range(width)])
            if tree.over is not None:
                return tree.over
            tree.live = best_first(distinct(grown)) or tree.restart()
        return "leaves"

    found = await search(run, "rebase", params.max_samples, spread)
    return RebaseResult(
        found.samples,
        found.chosen,
        found.stop_reason,
        found.confidence,
        found.planned,
        found.leaves,
        found.calls,
        found.rounds,
        tuple(steps),
    )


def widths(rewards: Sequence[float], budget: int, temperature: float) -> tuple[int, ...]:
    """`budget` children shared out by softmax(reward / temperature), rounded so that they add up to it.

    The largest remainders are rounded up, the first of equal ones first; so a better node never gets fewer.
    """
    best = max(rewards)
    parts = [exp((reward - best) / temperature) for reward in rewards]
    total = sum(parts)
    exact = [budget * part / total for part in parts]
    whole = [floor(share) for share in exact]
    order = sorted(range(len(exact)), key=lambda i: (whole[i] - exact[i], -rewards[i]))
    for i in order[: budget - sum(whole)]:
        whole[i] += 1
    return tuple(whole)
