"""Whether the recorded order is one order among many, and whether prompts share their luck.

A recording that gives sample i of every prompt the same seed makes those samples alike: all may be short.
Then the recorded order is a single draw however many prompts there are, and resampling prompts cannot tell.
Orders shared by all prompts can: the recorded one is one of them, unless a sample's place itself matters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.compute.groups import Group
from benchmarks.compute.replay import Draws, launched, shuffled
from benchmarks.compute.table import Pools

SHARED_ORDERS = 99


@dataclass(frozen=True, slots=True)
class Luck:
    """How much more the mean lengths at the places of the recorded order vary than in orders of their own.

    `spread` is that ratio of variances, 1 where prompts share nothing; `p` the part of random orders that
    spread as much.
    """

    spread: float
    p: float


def shared_luck(pools: Pools, group: Group) -> Luck:
    """Of the lengths of samples, by their place in the recorded order."""
    recorded = _spread(launched(pools, group))[0]
    others = _spread(shuffled(pools, group, SHARED_ORDERS))
    typical = float(others.mean())
    spread = recorded / typical if typical > 0 else 1.0
    return Luck(float(spread), rank(recorded, others))


def rank(value: float, others: np.ndarray) -> float:
    """Part of all, `value` included, that are as large as it: a permutation test's p."""
    return float((1 + (others >= value * (1 - 1e-12)).sum()) / (1 + others.size))


def shared_orders(pools: Pools, group: Group, seed: int = 0) -> list[Draws]:
    """The recorded samples in each of SHARED_ORDERS random orders, the same one for every prompt."""
    rng = np.random.default_rng(seed)
    base = launched(pools, group)
    rows = np.tile(np.arange(group.depth), (group.prompts.size, 1))
    return [base.arranged(rows[:, rng.permutation(group.depth)]) for _ in range(SHARED_ORDERS)]


def _spread(draws: Draws) -> np.ndarray:
    """Variance over places of the mean length there, one number an order."""
    by_order = draws.tokens.reshape(draws.orders, -1, draws.tokens.shape[1])
    return np.asarray(by_order.mean(axis=1).var(axis=1))
