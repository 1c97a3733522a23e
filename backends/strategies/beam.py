"""Beam search over reasoning steps, or several small beams side by side (DVTS), as in search-and-learn.

Beam: Snell et al. (arXiv 2408.03314). Every step draws `max_samples` children of the best partial replies and
carries the `width` best of them on. Children are ranked by the arm's scorer on the text so far: a process
score is that of the last step, a likelihood the mean over the path. With `subtrees` above 1 the beam is
split: each subtree has its share of children and width and keeps its own best, which costs the same and stays
diverse (Beeching et al., "Scaling test-time compute with open models", 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from backends.strategies.anytime import TreeResult, search
from backends.strategies.base import Run
from backends.strategies.tree import Node, Tree, best_first, distinct


@dataclass(frozen=True, slots=True)
class BeamResult(TreeResult):
    """`subtrees` is how many beams ran side by side."""

    subtrees: int


async def beam(run: Run) -> BeamResult:
    """Search until every subtree has as many leaves as it carries nodes ("leaves"), or `max_steps`.

    Leaves that fail the caller's check do not count; where all do, it begins again while there are steps. One
    that passes ends it. See `anytime.search` for what else ends it and what is raised.
    """
    params = run.params
    subtrees = max(1, min(params.subtrees, params.max_samples))
    width, children = max(1, params.width // subtrees), params.max_samples // subtrees

    async def climb(tree: Tree) -> str:
        tree.live = [Node(subtree=index) for index in range(subtrees)]
        while tree.live:
            if tree.rounds == params.max_steps:
                return "max_steps"
            grown = await tree.grow(_parents(tree.live, children))
            if tree.over is not None:
                return tree.over
            tree.live = _carried_on(tree, grown, width) or tree.restart(subtrees)
        return "leaves"

    found = await search(run, "beam search", params.width, climb)
    return BeamResult(
        found.samples,
        found.chosen,
        found.stop_reason,
        found.confidence,
        found.planned,
        found.leaves,
        found.calls,
        found.rounds,
        subtrees,
    )


def _parents(live: Sequence[Node], children: int) -> list[Node]:
    """Each node once for every child it is to have, in turns: a budget that ends leaves nobody out."""
    queues = []
    for group in _by_subtree(live).values():
        each = max(1, children // len(group))
        queues += [[node] * each for node in group]
    return [node for turn in zip_longest(*queues) for node in turn if node is not None]


def _carried_on(tree: Tree, grown: Sequence[Node], width: int) -> list[Node]:
    """The best of every subtree that has not found its leaves yet."""
    able = [leaf.subtree for leaf in tree.leaves if leaf.sample and leaf.sample.verified is not False]
    return [
        node
        for subtree, group in _by_subtree(grown).items()
        if able.count(subtree) < width
        for node in best_first(distinct(group))[:width]
    ]


def _by_subtree(nodes: Sequence[Node]) -> dict[int, list[Node]]:
    groups: dict[int, list[Node]] = {}
    for node in nodes:
        groups.setdefault(node.subtree, []).append(node)
    return groups
