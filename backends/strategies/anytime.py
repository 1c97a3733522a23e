"""A tree search from its beginning to whatever ends it, and the best that it has by then."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from backends.errors import DeadlinePassed, EngineError, StrategyUnsupported
from backends.strategies.base import Run, StrategyResult
from backends.strategies.ranking import require_scorer
from backends.strategies.tree import Node, Tree, best_first
from backends.task import Sample


@dataclass(frozen=True, slots=True)
class TreeResult(StrategyResult):
    """The best leaf of the answer with the most support, or the best partial reply where there is no leaf.

    `confidence` is that answer's share of the leaves' summed scores, carried samples included. It is not
    calibrated: leaves share their first steps, so they agree more than independent samples would.
    `leaves` counts the whole replies found here, `calls` the completions that the search took, `rounds` the
    times that some were drawn side by side: its steps or batches.
    """

    leaves: int
    calls: int
    rounds: int


async def search(
    run: Run, name: str, planned: int, explore: Callable[[Tree], Awaitable[str]], *, stepwise: bool = True
) -> TreeResult:
    """Run `explore`, which says why it stopped; the best so far where deadline, budget or engine end it.

    A carried sample that passes the caller's check ends it before it begins. `stepwise`: it draws single
    steps, so the engine must tell which stop string ended a completion.
    Raises StrategyUnsupported (the engine cannot do that or continue a reply, or lacks what the scorer
    needs), BudgetTooSmall (not one whole reply fits and none was carried in), DeadlinePassed, EngineError.
    """
    info = run.engine.info
    if not info.continues_prefix:
        raise StrategyUnsupported(f"{name} needs an engine that continues a prefix; {info.model} does not")
    if stepwise and not info.tells_stop:
        raise StrategyUnsupported(
            f"{name} needs an engine that tells which stop string ended a completion; {info.model} does not"
        )
    await require_scorer(run)
    tree = Tree(run)
    try:
        async with asyncio.timeout_at(run.deadline):
            reason = await tree.plant() or await explore(tree)
            if reason not in ("verified", "settled"):
                await tree.finish()
    except TimeoutError:
        reason = "deadline"
    except EngineError:
        if not (run.task.evidence or tree.leaves or tree.growing()):
            raise
        reason = "engine_error"
    return _best(tree, reason, planned)


def _best(tree: Tree, reason: str, planned: int) -> TreeResult:
    """Raises DeadlinePassed where there is no token of a reply."""
    run, votes = tree.run, tree.votes()
    run.used = len(tree.leaves)  # whole replies; the calls that made their steps are in the spend
    calls = sum(not call.verifier for call in run.calls)
    chosen = votes.leader()
    if chosen is None:
        return TreeResult((_partial(tree),), 0, reason, None, planned, 0, calls, tree.rounds)
    if (own := chosen - len(run.task.evidence)) >= 0:
        _keep(run, tree.leaves[own])
    share = votes.share(chosen)
    return TreeResult(votes.samples, chosen, reason, share, planned, len(tree.leaves), calls, tree.rounds)


def _partial(tree: Tree) -> Sample:
    """The best of what is unfinished, where nothing else is there."""
    run = tree.run
    if growing := best_first(tree.growing()):
        _keep(run, growing[0])
        return replace(tree.sample(growing[0]), verified=run.passes(growing[0].text))
    cut = run.longest_unfinished()  # its first step was cut off
    if cut is None:
        raise DeadlinePassed("no token came before the deadline; allow more time")
    run.keep(cut)
    return run.as_sample(cut)


def _keep(run: Run, node: Node) -> None:
    for call, tokens in node.parts:
        run.keep(call, tokens)
