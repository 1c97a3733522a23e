"""What could be known at best of a prompt before anything is drawn: expected scores, chance averaged out."""

from __future__ import annotations

import numpy as np

from benchmarks.compute.groups import Group
from benchmarks.compute.replay import CONFIDENCE, shuffled
from benchmarks.compute.table import NO_ANSWER, Pools
from benchmarks.compute.votes import stops
from classifier.evaluation.splits import Beliefs
from policies.schema import Policy
from router.replay.recording import Drawn, Recording

ORDERS = 200


def reachable(policy: Policy, recorded: Recording) -> Beliefs:
    """(n, arms) expected scores and completion tokens.

    A vote's are means over random orders of the prompt's recorded samples; an arm at temperature 0 gives the
    same again, so what was recorded is expected. Samples are few, so a vote's expectation still knows some of
    the luck of the recorded one: it is an upper bound on what can be reached.
    """
    table = recorded.table
    scores, tokens = table.scores.copy(), table.tokens.copy()
    for column, arm in enumerate(table.arms):
        spec = policy.arms[arm]
        if spec.strategy != "self_consistency" or spec.weighted:
            continue
        lists = [cells[arm].pool if arm in cells else () for cells in recorded.cells]
        pools = _pools(lists)
        for depth in np.unique(pools.count[pools.count > 0]):
            group = Group("", np.flatnonzero(pools.count == depth), int(depth))
            draws = shuffled(pools, group, orders=ORDERS)
            counted = draws.counted()
            counts = stops(counted, min(spec.max_samples, int(depth)), spec.confidence or CONFIDENCE)
            drawn = np.take_along_axis(counted.score, counts[:, None] - 1, axis=1)[:, 0]
            scores[group.prompts, column] = draws.per_prompt(drawn)
            tokens[group.prompts, column] = draws.per_prompt(draws.tokens_of(counts))
    return Beliefs(scores, tokens)


def _pools(lists: list[tuple[Drawn, ...]]) -> Pools:
    count = np.array([len(samples) for samples in lists], dtype=np.int64)
    shape = (len(lists), int(count.max(initial=0)))
    answers = np.full(shape, NO_ANSWER, dtype=np.int64)
    scores, tokens, logprobs = np.zeros(shape), np.zeros(shape), np.full(shape, -np.inf)
    for at, samples in enumerate(lists):
        numbers: dict[str, int] = {}
        for i, sample in enumerate(samples):
            if sample.answer is not None:
                answers[at, i] = numbers.setdefault(sample.answer, len(numbers))
            scores[at, i], tokens[at, i] = sample.score, sample.completion_tokens
            if sample.mean_logprob is not None:
                logprobs[at, i] = sample.mean_logprob
    return Pools(count, answers, scores, tokens, logprobs)
