"""Beam search over reasoning steps (search-and-learn), scored by mean log-probability or the caller's check.

A step ends at a newline. A node is prompt + steps so far, resubmitted, so that the engine's prefix cache
serves it. Leaves vote with the sum of their scores (weighted by answer); a leaf that passes the caller's
check ends the search.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from math import exp

from backends.errors import BudgetTooSmall, DeadlinePassed, EngineError, StrategyUnsupported
from backends.strategies.base import Call, Run, StrategyResult
from backends.task import Sample


@dataclass(frozen=True, slots=True)
class BeamResult(StrategyResult):
    """The best-supported leaf; `confidence` is its answer's share of all leaves' score."""

    leaves: int
    steps: int


@dataclass(frozen=True, slots=True)
class Node:
    """A partial reply: its text, the calls that made it, and the log-probabilities that the engine gave."""

    text: str = ""
    calls: tuple[Call, ...] = field(default=())
    logprobs: tuple[float, ...] = field(default=())
    tokens: int = 0

    @property
    def mean_logprob(self) -> float | None:
        """Of the tokens that have one: an engine may leave some without."""
        return sum(self.logprobs) / len(self.logprobs) if self.logprobs else None

    @property
    def score(self) -> float:
        """The mean log-probability; -inf where there is none."""
        return float("-inf") if self.mean_logprob is None else self.mean_logprob

    def finished(self, max_tokens: int) -> bool:
        """The reply ended here: by the model, by the caller's stop string, or at `max_tokens`."""
        return self.ended or self.tokens >= max_tokens

    @property
    def ended(self) -> bool:
        """The model or the caller's stop string ended the reply; a step's end does not."""
        completion = self.calls[-1].completion if self.calls else None
        return completion is not None and completion.finish == "stop" and completion.stop_string != "\n"


async def beam(run: Run) -> BeamResult:
    """Expand `max_samples` children a step, keep the `width` best, at most `max_steps` steps.

    Anytime: budget or deadline end it with the best leaf, or else the best partial node.
    Raises StrategyUnsupported (the engine cannot continue a prefix or gives no log-probabilities),
    DeadlinePassed, BudgetTooSmall, EngineError.
    """
    info = run.engine.info
    if not (info.continues_prefix and info.logprobs):
        raise StrategyUnsupported(
            "beam search needs an engine that continues a prefix and gives log-probabilities; "
            f"{info.model} does not"
        )
    live: list[Node] = [Node()]
    leaves: list[tuple[Node, Sample]] = []
    reason, steps = "max_steps", 0
    try:
        async with asyncio.timeout_at(run.deadline):
            for steps in range(1, run.params.max_steps + 1):
                children = await _expand(run, live, first=steps == 1)
                if children is None:
                    reason = "budget"
                    break
                limit = run.task.sampling.max_tokens
                leaves += [(node, _leaf(run, node)) for node in children if node.finished(limit)]
                live = [node for node in children if not node.finished(limit)]
                live = sorted(live, key=lambda node: node.score, reverse=True)[: run.params.width]
                best = _choose(leaves)
                run.progress([leaf for _, leaf in leaves], best and best[1].answer, None)
                if any(leaf.verified for _, leaf in leaves):
                    reason = "verified"
                    break
                if len(leaves) >= run.params.width or not live:
                    reason = "leaves"
                    break
    except TimeoutError:
        reason = "deadline"
    except EngineError:
        if not leaves and not any(node.calls for node in live):
            raise
        reason = "engine_error"
    if not leaves:  # the best of what is unfinished is still the best so far
        leaves = [(node, _leaf(run, node)) for node in live if node.calls]
    if not leaves and (cut := run.longest_unfinished()) is not None:
        leaves = [(Node(calls=(cut,)), run.as_sample(cut))]
    chosen = _choose(leaves)
    if chosen is None:
        if run.task.evidence:
            return BeamResult(run.task.evidence, 0, reason, None, run.params.width, 0, steps)
        raise DeadlinePassed("no step of the search was finished before the deadline; allow more time")
    for call in chosen[0].calls:
        run.keep(call)
    run.used = len(leaves)  # whole replies; the calls that made their steps are counted in the spend
    samples = (*run.task.evidence, *(leaf for _, leaf in leaves))
    index = len(run.task.evidence) + [leaf for _, leaf in leaves].index(chosen[1])
    share = _share(leaves, chosen[1].answer)
    return BeamResult(samples, index, reason, share, run.params.width, len(leaves), steps)


async def _expand(run: Run, live: list[Node], *, first: bool) -> list[Node] | None:
    """One step of every live node, about `max_samples` children in all; None if the budget covers none.

    At the root the children share one cold prompt, so the first goes ahead and warms the prefix cache.
    """
    messages = run.messages()
    each = max(1, run.params.max_samples // len(live))
    wanted = [node for node in live for _ in range(each)]
    prompts = {node.text: await run.prompt_tokens(messages, node.text) for node in live}
    room, affordable = run.tokens_left(), []
    for node in wanted:
        room -= prompts[node.text] + run.params.step_tokens
        if room < 0:
            break
        affordable.append(node)
    if not affordable:
        if first:  # not even one call: say what it needs
            raise BudgetTooSmall(prompts[""] + run.params.step_tokens, run.tokens_left())
        return None
    children: list[Node] = []
    groups = [affordable[:1], affordable[1:]] if first else [affordable]
    for group in groups:
        samplings = [
            replace(
                run.sampling(len(run.calls) + i),
                max_tokens=min(run.params.step_tokens, run.task.sampling.max_tokens - node.tokens),
                stop=("\n", *run.task.sampling.stop),
            )
            for i, node in enumerate(group)
        ]
        async with aclosing(run.in_launch_order(messages, samplings, [n.text for n in group])) as drawn:
            async for call, prefix in drawn:
                parent = next(n for n in group if n.text == prefix)
                children.append(_child(parent, call))
    return _distinct(children)


def _child(parent: Node, call: Call) -> Node:
    completion = call.completion
    logprobs = completion.logprobs if completion else ()
    newline = "\n" if completion is not None and completion.stop_string == "\n" else ""
    return Node(
        text=parent.text + call.text + newline,
        calls=(*parent.calls, call),
        logprobs=(*parent.logprobs, *logprobs),
        tokens=parent.tokens + call.completion_tokens,
    )


def _distinct(nodes: list[Node]) -> list[Node]:
    """Children with the same text are one node: a beam of copies would search nothing."""
    return list({(node.text, node.calls[-1].text): node for node in nodes}.values())


def _leaf(run: Run, node: Node) -> Sample:
    sample = run.as_sample(node.calls[-1], node.text)
    finish = "stop" if node.ended else "length"
    return replace(sample, finish=finish, completion_tokens=node.tokens, mean_logprob=node.mean_logprob)


def _weight(leaf: Sample) -> float:
    return exp(leaf.mean_logprob) if leaf.mean_logprob is not None else 0.0


def _choose(leaves: list[tuple[Node, Sample]]) -> tuple[Node, Sample] | None:
    """A verified leaf, else the best leaf of the answer with the largest summed score."""
    able = [pair for pair in leaves if pair[1].verified] or [p for p in leaves if p[1].verified is not False]
    able = able or leaves
    if not able:
        return None
    support: dict[str | None, float] = defaultdict(float)
    for _, leaf in able:
        support[leaf.answer] += _weight(leaf)
    if any(answer is not None for answer in support):
        support.pop(None, None)
    answer = max(support, key=lambda a: support[a])
    return max((p for p in able if p[1].answer == answer), key=lambda p: _weight(p[1]))


def _share(leaves: list[tuple[Node, Sample]], answer: str | None) -> float | None:
    total = sum(_weight(leaf) for _, leaf in leaves)
    if answer is None or total <= 0 or len(leaves) < 2:
        return None
    return sum(_weight(leaf) for _, leaf in leaves if leaf.answer == answer) / total
