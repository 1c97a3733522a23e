"""What the tree searches share: partial replies grown within the budget, and the vote of the whole ones.

A node is the prompt and a reply so far, resubmitted, so that the engine's prefix cache serves it; a budget is
charged for those tokens all the same, so deep nodes are dear. A step ends at a newline.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from backends.errors import BudgetTooSmall
from backends.strategies.base import Call, Run
from backends.strategies.leaves import Votes
from backends.task import Sample
from backends.verifiers.scorers import SCORERS
from backends.verifiers.self_certainty import certainty

STEP_END = "\n"
SLACK_TOKENS = 8  # a reply's text may come to more tokens when it is read than when it was written


@dataclass(slots=True, eq=False)
class Node:
    """A reply so far. `parts` are the calls that made it, each with how many of its tokens are in it.

    `score` is that of its parent until it has one of its own. `sample` is set once the reply is whole.
    """

    text: str = ""
    parts: tuple[tuple[Call, int], ...] = ()
    logprobs: tuple[float, ...] = ()
    tokens: int = 0
    score: float | None = None
    subtree: int = 0
    parent: Node | None = None
    sample: Sample | None = None

    @property
    def mean_logprob(self) -> float | None:
        """Of the tokens that have one: an engine may leave some without."""
        return sum(self.logprobs) / len(self.logprobs) if self.logprobs else None


def best_first(nodes: Sequence[Node]) -> list[Node]:
    """By score; nodes without one last, ties in the order they were launched."""
    return sorted(nodes, key=lambda n: (n.score is not None, n.score or 0.0), reverse=True)


def distinct(nodes: Sequence[Node]) -> list[Node]:
    """Without the later copies of a text: they would search the same tree again."""
    first: dict[str, Node] = {}
    for node in nodes:
        first.setdefault(node.text, node)
    return list(first.values())


class Tree:
    """One search: its leaves so far, its frontier, and its growth.

    `over` says why nothing can grow any more: "verified" (a reply passed the caller's check) or "budget".
    `rounds` counts the times that it grew.
    A reply has at most `reply_tokens`: the caller's max_tokens, or as many steps as the arm allows.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.messages = run.messages()
        self.prompt_tokens = 0
        self.reply_tokens = 0
        self.leaves: list[Node] = []
        self.live: list[Node] = []
        self.over: str | None = None
        self.rounds = 0
        self._arrived: list[Node] = []
        self._draws = len(run.task.evidence)

    async def plant(self) -> str | None:
        """Measure the prompt; why there is nothing to search, None where there is something.

        Raises BudgetTooSmall where no whole reply fits and none was carried in.
        """
        run = self.run
        if any(sample.verified for sample in run.task.evidence):
            return "verified"
        self.prompt_tokens = await run.prompt_tokens(self.messages)
        self.reply_tokens = min(
            run.task.sampling.max_tokens,
            run.params.max_steps * run.params.step_tokens,
            run.engine.info.context_tokens - self.prompt_tokens,
        )
        needed = self.prompt_tokens + self.reply_tokens
        if needed <= run.tokens_left():
            return None
        if run.task.evidence:
            return "budget"
        raise BudgetTooSmall(needed, run.tokens_left())

    # -- growing

    async def grow(self, parents: Sequence[Node], *, whole: bool = False) -> list[Node]:
        """Draw a child for each of `parents`, in order, as far as the budget goes; the unfinished, scored.

        `whole`: each goes on to the end of its reply and not of its step. Until there is a leaf, steps leave
        enough of the budget for one whole reply, so that the search ends with an answer. Whole replies
        become leaves as they arrive, in launch order; one that passes the caller's check cancels the rest.
        Raises EngineError where every call fails.
        """
        kept_back = 0 if whole or self._has_leaf() else self.prompt_tokens + self.reply_tokens + SLACK_TOKENS
        self._arrived = []
        with self.run.holding(kept_back):
            asked = await self._affordable(parents, whole)
            if not asked:
                self.over = "budget"
                return []
            before = len(self.leaves)
            # The first call of all goes ahead: the others find its prompt in the prefix cache.
            cold = all(call.verifier for call in self.run.calls)
            for group in (asked[:1], asked[1:]) if cold else (asked,):
                if self.over is None:
                    await self._draw(group, whole)
            if self.over is None:
                await self._score([*self._arrived, *self.leaves[before:]])
        self.rounds += 1
        self._tell()
        return self._arrived

    def growing(self) -> list[Node]:
        """What is begun and not whole, the newest first."""
        return [node for node in (*self._arrived, *self.live) if node.parts]

    def restart(self, subtrees: int = 1) -> list[Node]:
        """The roots again where every leaf failed the caller's check; nothing otherwise."""
        if not self.leaves or self._has_leaf():
            return []
        return [Node(subtree=index) for index in range(subtrees)]

    async def finish(self) -> None:
        """Without a leaf that may be the answer, write the best node that the budget covers to its end."""
        if self._has_leaf():
            return
        self.live = best_first(self.growing())
        for node in self.live if self.leaves else (*self.live, Node()):
            if await self._affordable([node], whole=True):
                self.over = None
                await self.grow([node], whole=True)
                return

    async def _affordable(self, parents: Sequence[Node], whole: bool) -> list[tuple[Node, int]]:
        """The first parents whose calls the budget covers in full, with the most each may generate."""
        room, asked = self.run.tokens_left(), []
        for node in parents:
            limit = self.reply_tokens - node.tokens
            if not whole:
                limit = min(limit, self.run.params.step_tokens)
            room -= await self.run.prompt_tokens(self.messages, node.text) + limit
            if room < 0:
                break
            asked.append((node, limit))
        return asked

    async def _draw(self, group: Sequence[tuple[Node, int]], whole: bool) -> None:
        asked = self.run.task.sampling.stop
        stops = asked if whole or STEP_END in asked else (STEP_END, *asked)
        samplings = []
        waiting: dict[str, deque[Node]] = defaultdict(deque)  # nodes with the same text take turns
        for node, limit in group:
            sampling = self.run.sampling(self._draws)
            self._draws += 1  # carried samples had the first seeds; no two draws share one
            samplings.append(replace(sampling, max_tokens=limit, stop=stops))
            waiting[node.text].append(node)
        prefixes = [node.text for node, _ in group]
        async with aclosing(self.run.in_launch_order(self.messages, samplings, prefixes)) as drawn:
            async for call, prefix in drawn:
                self._take(waiting[prefix].popleft(), call, whole)
                if self.over is not None:
                    break

    def _take(self, parent: Node, call: Call, whole: bool) -> None:
        """The child that a call made: a leaf if its reply is whole."""
        stops, completion = self.run.task.sampling.stop, call.completion
        stepped = completion is not None and completion.stop_string == STEP_END and STEP_END not in stops
        text = parent.text + call.text + (STEP_END if stepped else "")
        # A stop string with a newline in it is complete only once its steps are put together.
        cuts = [text.index(stop) for stop in stops if stop in text]
        text = text[: min(cuts, default=len(text))]
        ended = bool(cuts) or (completion is not None and completion.finish == "stop" and not stepped)
        child = Node(
            text=text,
            parts=(*parent.parts, (call, call.completion_tokens)),
            logprobs=(*parent.logprobs, *(completion.logprobs if completion else ())),
            tokens=parent.tokens + call.completion_tokens,
            score=parent.score,
            subtree=parent.subtree,
            parent=parent,
        )
        if not (whole or ended or child.tokens >= self.reply_tokens):
            self._arrived.append(child)
            return
        if not whole and any(leaf.text == text for leaf in self.leaves):
            return  # how often a step is drawn is the search's choice, and no vote
        child.sample = replace(
            self.sample(child), finish="stop" if ended else "length", verified=self.run.passes(text)
        )
        child.score = None  # another reply's score is no vote
        self.leaves.append(child)
        if child.sample.verified:
            self.over = "verified"

    def _has_leaf(self) -> bool:
        """Whether a reply was found that may be the answer."""
        return any(n.text.strip() and n.sample and n.sample.verified is not False for n in self.leaves)

    # -- scoring and voting

    def sample(self, node: Node) -> Sample:
        """A node as scorers see it: text and log-probability of the whole path, unchecked while it grows."""
        sample = self.run.as_sample(node.parts[-1][0], node.text)
        alternatives = [told for call, tokens in node.parts for told in _alternatives(call, tokens)]
        return replace(
            sample,
            finish="length",
            completion_tokens=node.tokens,
            mean_logprob=node.mean_logprob,
            verified=None,
            certainty=certainty(alternatives),
        )

    async def _score(self, nodes: Sequence[Node]) -> None:
        """Score what the caller's check has not judged; where the budget is too small the search is over."""
        asked = [node for node in nodes if node.sample is None or node.sample.verified is None]
        if not asked:
            return
        try:
            scores = await SCORERS[self.run.params.scorer](
                self.run, [node.sample or self.sample(node) for node in asked]
            )
        except BudgetTooSmall:
            self.over = "budget"
            return
        for node, score in zip(asked, scores, strict=True):
            node.score = node.score if score is None else score

    def votes(self) -> Votes:
        """Carried samples and leaves, each with its score; nothing is spent on scoring the carried ones."""
        scorer, carried = self.run.params.scorer, self.run.task.evidence
        samples = (*carried, *(leaf.sample for leaf in self.leaves if leaf.sample))
        return Votes(
            scorer, samples, (*(_known(scorer, s) for s in carried), *(n.score for n in self.leaves))
        )

    def values(self) -> list[float]:
        """The leaves' weights in [0, 1]."""
        return self.votes().weights()[len(self.run.task.evidence) :]

    def _tell(self) -> None:
        votes = self.votes()
        leader = votes.leader()
        answer = None if leader is None else votes.samples[leader].answer
        self.run.progress(votes.samples, answer, None if leader is None else votes.share(leader))


def _alternatives(call: Call, tokens: int) -> tuple[tuple[float, ...], ...]:
    return call.completion.top_logprobs[:tokens] if call.completion else ()


def _known(scorer: str, carried: Sample) -> float | None:
    """The score that a carried sample brings along."""
    return {"logprob": carried.mean_logprob, "self_certainty": carried.certainty}.get(scorer)
