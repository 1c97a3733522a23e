"""What each strategy would have answered, and at how many tokens, had it drawn the recorded samples.

Samples of a pool are drawn alike, so every order of them is as good as the recorded one: strategies are
replayed on many orders and averaged, which takes chance out of the figures and favours none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from backends.strategies.ranking import weights
from backends.strategies.self_consistency import VOTE_TEMPERATURE
from backends.task import StrategyParams
from benchmarks.compute.groups import SIZES, Group
from benchmarks.compute.table import Floats, Ints, Pools, Recording
from benchmarks.compute.votes import Prefixes, count_prefixes, stops
from benchmarks.compute.waves import tokens_in_waves

ORDERS = 32  # orders of a prompt's samples that a replay is averaged over
CONFIDENCE = StrategyParams().confidence
LIMITS = (4, 8, 16, 40)  # of the adaptive runs and of the ranked ones


@dataclass(frozen=True, slots=True)
class Draws:
    """Orders of the samples of p prompts: all (orders * p, depth), order by order."""

    orders: int
    answers: Ints
    scores: Floats
    tokens: Floats
    logprobs: Floats

    def per_prompt(self, values: Floats | Ints) -> Floats:
        """Means over the orders of values (orders * p, ...): (p, ...)."""
        folded = values.reshape(self.orders, -1, *values.shape[1:])
        return np.asarray(folded.mean(axis=0), dtype=np.float64)

    def arranged(self, order: Ints) -> Draws:
        """Each draw in another order, (orders * p, depth)."""
        parts = (self.scores, self.tokens, self.logprobs)
        answers = np.take_along_axis(self.answers, order, axis=1)
        return Draws(self.orders, answers, *(np.take_along_axis(part, order, axis=1) for part in parts))

    def counted(self, weights: Floats | None = None) -> Prefixes:
        return count_prefixes(self.answers, self.scores, self.logprobs, weights)

    def tokens_of(self, counts: Ints) -> Floats:
        """Completion tokens of the first `counts` samples of each, (orders * p,)."""
        return np.take_along_axis(self.tokens.cumsum(axis=1), counts[:, None] - 1, axis=1)[:, 0]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One strategy on the prompts of a group: one value a prompt, means over the orders."""

    name: str
    kind: str
    samples: Floats
    tokens: Floats
    accuracy: Floats


def launched(pools: Pools, group: Group) -> Draws:
    """The samples as they were launched."""
    return _draws(pools, group, np.tile(np.arange(group.depth), (group.prompts.size, 1)), 1)


def shuffled(pools: Pools, group: Group, orders: int = ORDERS, seed: int = 0) -> Draws:
    """`orders` random orders of each prompt's samples, cut to the group's depth."""
    rng = np.random.default_rng(seed)
    keys = rng.random((orders, group.prompts.size, pools.answers.shape[1]))
    missing = np.arange(keys.shape[2]) >= pools.count[group.prompts][:, None]
    keys[:, missing] = 2.0
    order = keys.argsort(axis=2)[:, :, : group.depth]
    return _draws(pools, group, order.reshape(-1, group.depth), orders)


def strategies(recording: Recording, group: Group) -> list[Outcome]:
    """Every strategy that the samples can tell of, then every recorded arm that has all of the prompts."""
    draws = shuffled(recording.pools, group)
    plain = draws.counted()
    told = [float(x) for x in draws.logprobs.ravel()]
    likelihood = np.reshape(weights("logprob", told), draws.logprobs.shape)
    cisc = draws.counted(np.where(np.isfinite(draws.logprobs), np.exp(likelihood / VOTE_TEMPERATURE), 0.0))
    ranked = draws.counted(likelihood)
    outcomes = [
        _fixed(draws, "one sample", "one", 1, draws.scores[:, 0]),
        *(
            _fixed(draws, f"majority of {k}", "majority", k, plain.score[:, k - 1])
            for k in SIZES
            if 1 < k <= group.depth
        ),
    ]
    limits = [limit for limit in LIMITS if limit <= group.depth]
    for limit in limits:
        outcomes.append(adaptive(draws, plain, limit))
    for limit in limits:
        name = f"weighted by likelihood, {limit}"
        outcomes.append(_fixed(draws, name, "weighted", limit, cisc.score[:, limit - 1]))
    for limit in limits:
        outcomes.append(_fixed(draws, f"best of {limit}", "best", limit, ranked.score[:, limit - 1]))
    return outcomes + recorded(recording, group)


def adaptive(draws: Draws, counted: Prefixes, limit: int) -> Outcome:
    """Self-consistency with both stops and at most `limit` samples; tokens count what its waves began."""
    counts = stops(counted, limit, CONFIDENCE)
    score = np.take_along_axis(counted.score, counts[:, None] - 1, axis=1)[:, 0]
    return Outcome(
        f"adaptive, at most {limit}",
        "adaptive",
        draws.per_prompt(counts),
        draws.per_prompt(tokens_in_waves(draws.tokens[:, :limit], counts)),
        draws.per_prompt(score),
    )


def recorded(recording: Recording, group: Group) -> list[Outcome]:
    """Arms that were recorded on all of the group's prompts, as recorded."""
    outcomes = []
    for arm in recording.recorded:
        column = recording.table.arms.index(arm)
        scores = recording.table.scores[group.prompts, column]
        if not np.isnan(scores).any():
            tokens = recording.table.tokens[group.prompts, column]
            kind = "search" if arm in recording.searches else "recorded"
            outcomes.append(Outcome(arm, kind, np.full(scores.size, np.nan), tokens, scores))
    return outcomes


def _fixed(draws: Draws, name: str, kind: str, count: int, score: Floats) -> Outcome:
    counts = np.full(len(score), count)
    tokens = draws.per_prompt(draws.tokens_of(counts))
    return Outcome(name, kind, draws.per_prompt(counts), tokens, draws.per_prompt(score))


def _draws(pools: Pools, group: Group, order: Ints, orders: int) -> Draws:
    prompts = np.tile(group.prompts, orders)[:, None]
    return Draws(
        orders,
        pools.answers[prompts, order],
        pools.scores[prompts, order],
        pools.tokens[prompts, order],
        pools.logprobs[prompts, order],
    )
