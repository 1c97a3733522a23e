"""Monte-Carlo tree search with adaptive branching: AB-MCTS-A (Inoue et al., arXiv 2503.04412), over steps.

Every draw is a reply written to its end from some node, so it is a leaf, a vote, and an estimate of each node
on its path. At a node, Thompson sampling chooses between a new continuation of it (the paper's GEN node) and
going deeper, into the first step of one that is there.

Why not PUCT: it weighs a fixed set of moves by a trained prior and backs up a trained value. Here is neither.
A sampled step's likelihood was already spent in drawing it, the number of next steps has no bound, and a step
can hardly be judged before its reply is whole. AB-MCTS needs no prior and no fixed width, takes the value
from the ends of replies, which scorers and checks are made for, and its random choices differ by themselves,
so that a batch can be drawn at once without a virtual loss. A reply is one call, so its prompt is paid once,
where a search by steps pays it at every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import sqrt
from random import Random

from backends.strategies.anytime import TreeResult, search
from backends.strategies.base import Run
from backends.strategies.tree import STEP_END, Node, Tree

BATCH = 5  # replies drawn side by side, at most: more would be chosen without what the others found
STALLS = 3  # batches in a row that bring neither a new leader nor a better reply: a plateau
PRIOR_WEIGHT = 1.0  # observations that the prior counts for, in its mean and in its variance
PRIOR_VARIANCE = 0.1
LEAST_CHI_SQUARED = 1e-9  # the generator may give 0, which cannot be divided by


@dataclass(frozen=True, slots=True)
class MctsResult(TreeResult):
    """`nodes` counts the places that replies were written from, `depth` the steps of the deepest."""

    nodes: int
    depth: int


@dataclass(slots=True, eq=False)
class Branch:
    """A node with what was found beneath it, as indices of leaves.

    `through`: replies with this node on their path. `new`: those written from it. `deeper`: those written
    from a node beneath it.
    """

    node: Node
    parent: Branch | None = None
    depth: int = 0
    children: dict[str, Branch] = field(default_factory=dict)
    through: list[int] = field(default_factory=list)
    new: list[int] = field(default_factory=list)
    deeper: list[int] = field(default_factory=list)


async def mcts(run: Run) -> MctsResult:
    """Draw up to `max_samples` replies ("max_samples"), the first alone, then at most `BATCH` at once.

    Ends early at a reply that passes the caller's check ("verified"), when no later one can change the answer
    ("settled"), or when `STALLS` batches changed nothing ("plateau"). Choices are drawn from the request's
    seed. See `anytime.search` for what else ends it and what is raised.
    """
    rng = Random(run.task.sampling.seed or 0)
    limit = run.params.max_samples
    branches = {"": Branch(Node())}

    async def explore(tree: Tree) -> str:
        stalled, best = 0, _standing(tree)
        while (left := limit - len(tree.leaves)) > 0:
            if tree.votes().settled(left):
                return "settled"
            values = tree.values()
            size = min(BATCH, left) if tree.leaves else 1
            chosen = [select(branches[""], values, rng) for _ in range(size)]
            known = len(tree.leaves)
            await tree.grow([branch.node for branch in chosen], whole=True)
            if tree.over is not None:
                return tree.over
            for index in range(known, len(tree.leaves)):
                await _plant(tree, branches, index)
            before, best = best, _standing(tree)
            stalled = stalled + 1 if best == before and best[0] is not None else 0
            if stalled == STALLS:
                return "plateau"
        return "max_samples"

    found = await search(run, "mcts", limit, explore, stepwise=False)
    return MctsResult(
        found.samples,
        found.chosen,
        found.stop_reason,
        found.confidence,
        found.planned,
        found.leaves,
        found.calls,
        found.rounds,
        len(branches),
        max(branch.depth for branch in branches.values()),
    )


def select(root: Branch, values: Sequence[float], rng: Random) -> Branch:
    """Walk down from the root to the node that the next reply is written from."""
    mean = sum(values) / len(values) if values else 0.0
    branch = root
    while branch.children:
        new = thompson([values[i] for i in branch.new], mean, rng)
        deeper = thompson([values[i] for i in branch.deeper], mean, rng)
        if new >= deeper:
            break
        drawn = [
            (thompson([values[i] for i in child.through], mean, rng), child)
            for child in branch.children.values()
        ]
        branch = max(drawn, key=lambda pair: pair[0])[1]
    return branch


def thompson(seen: Sequence[float], prior_mean: float, rng: Random) -> float:
    """A draw from the posterior of a mean whose observations are normal with unknown mean and variance.

    Normal-inverse-chi-squared with the paper's prior weights; the prior mean is that of all replies so far,
    so that no scale has to be known.
    """
    count = len(seen)
    mean = sum(seen) / count if count else 0.0
    weight = PRIOR_WEIGHT + count
    spread = sum((value - mean) ** 2 for value in seen)
    pull = count * PRIOR_WEIGHT / weight * (mean - prior_mean) ** 2
    chi_squared = max(rng.gammavariate(weight / 2, 2.0), LEAST_CHI_SQUARED)
    variance = (PRIOR_WEIGHT * PRIOR_VARIANCE + spread + pull) / chi_squared
    return rng.gauss((PRIOR_WEIGHT * prior_mean + count * mean) / weight, sqrt(variance / weight))


async def _plant(tree: Tree, branches: dict[str, Branch], index: int) -> None:
    """Tell the path of leaf `index` of it, and make its first step a node of its own."""
    leaf = tree.leaves[index]
    branch = branches[leaf.parent.text if leaf.parent else ""]
    branch.new.append(index)
    if branch.depth < tree.run.params.max_steps and (child := await _first_step(tree, leaf)) is not None:
        below = branches.get(child.text)
        if below is None:
            below = branches[child.text] = Branch(child, branch, branch.depth + 1)
            branch.children[child.text] = below
        below.through.append(index)
    above: Branch | None = branch
    while above is not None:
        above.through.append(index)
        if above is not branch:
            above.deeper.append(index)
        above = above.parent


async def _first_step(tree: Tree, leaf: Node) -> Node | None:
    """The node after the first step that a leaf adds to its parent; None if the leaf ends there."""
    parent = leaf.parent or Node()
    added = leaf.text[len(parent.text) :]
    blank = len(added) - len(added.lstrip())
    end = added.find(STEP_END, blank) + 1
    if end == 0 or not added[end:].strip():
        return None
    text = parent.text + added[:end]
    tokens = await tree.run.prompt_tokens(tree.messages, text) - tree.prompt_tokens
    if not parent.tokens < tokens < leaf.tokens:
        return None
    call, _ = leaf.parts[-1]
    return Node(
        text=text,
        parts=(*parent.parts, (call, tokens - parent.tokens)),
        logprobs=leaf.logprobs[:tokens],  # exact where the text reads in the tokens that it was written in
        tokens=tokens,
        parent=parent,
    )


def _standing(tree: Tree) -> tuple[str | None, float]:
    """The leading answer and the best value so far."""
    votes = tree.votes()
    leader = votes.leader()
    best = round(max(tree.values(), default=0.0), 3)
    if leader is None or votes.samples[leader].verified is False:
        return None, best
    return votes.samples[leader].answer, best
