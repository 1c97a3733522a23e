"""Counting votes as they arrive against counting them as they were launched."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.compute.bootstrap import Interval, mean, ratio
from benchmarks.compute.figures.stopping import FEWEST_SAMPLES
from benchmarks.compute.grid import Figure, Grid, points, versus
from benchmarks.compute.groups import Group, depth_groups
from benchmarks.compute.luck import Luck, rank, shared_luck, shared_orders
from benchmarks.compute.replay import CONFIDENCE, Draws, launched, shuffled
from benchmarks.compute.table import Floats, Ints, Pools, Recording
from benchmarks.compute.votes import first_stop, settled
from benchmarks.compute.waves import wave_ends

SURPRISING = 0.05
FREE, LAUNCH, WAVES = "order-free draw", "launch order", "complete waves"
IN_WAVES, ARRIVAL = "arrivals in waves", "arrivals"


@dataclass(frozen=True, slots=True)
class Counting:
    """One order of counting with both stops.

    `length` is the mean tokens of a counted sample over that of the pool, `alike` the correlation of the two
    over prompts, `difference` the accuracy minus that of the order-free draw.
    """

    order: str
    samples: Interval
    length: Interval
    alike: float
    accuracy: Interval
    difference: Interval


@dataclass(frozen=True, slots=True)
class Orders:
    """Every order on one group of prompts; `length_gaps` are ratios of `length` to the order-free draw's.

    `p_length` and `p_accuracy` are the parts of orders shared by all prompts that are as far from their mean
    as the recorded one.
    """

    group: Group
    countings: tuple[Counting, ...]
    length_gaps: tuple[Interval, ...]
    p_length: float
    p_accuracy: float
    luck: Luck


def measure(recording: Recording) -> list[Orders]:
    return [
        _orders(recording.pools, group) for group in depth_groups(recording) if group.depth >= FEWEST_SAMPLES
    ]


def figure(measured: list[Orders], plot: str | None) -> Figure:
    if not measured:
        return Figure("order", (f"No prompts with {FEWEST_SAMPLES} samples or more: no order to compare.",))
    grids = tuple(
        Grid(
            f"Order of counting, at most {orders.group.depth}: {orders.group.name}",
            ("order", "samples", "length / pool's, %", "corr.", "accuracy, %", "to order-free"),
            tuple(_row(counting) for counting in orders.countings),
        )
        for orders in measured
    )
    return Figure("order", tuple(s for orders in measured for s in _words(orders)), grids, plot)


def _row(told: Counting) -> tuple[str, ...]:
    return (
        told.order,
        told.samples.text(1),
        told.length.text(1, 100.0),
        f"{told.alike:.3f}",
        told.accuracy.text(0, 100.0),
        points(told.difference),
    )


def _words(orders: Orders) -> list[str]:
    words = []
    for counting, gap in zip(orders.countings, orders.length_gaps, strict=True):
        if counting.order in (ARRIVAL, IN_WAVES):
            name = f"{orders.group.name}: counting {counting.order}"
            words.append(versus(name, f"an {FREE}", counting.difference))
            told = "no bias towards any length can be told" if gap.holds(1.0) else "a bias"
            words.append(f"{name}, a counted sample is {gap.text(3)} times as long as in an {FREE}: {told}.")
    return [*words, *_launch_words(orders)]


def _launch_words(orders: Orders) -> list[str]:
    name, luck = orders.group.name, orders.luck
    launch = next(counting for counting in orders.countings if counting.order == LAUNCH)
    plain = min(orders.p_length, orders.p_accuracy) >= SURPRISING
    words = [
        f"{name}: counting in launch order moves accuracy by {points(launch.difference)} points. Of orders "
        f"shared by all prompts, {100 * orders.p_accuracy:.0f} % move it as far, and "
        f"{100 * orders.p_length:.0f} % move the length of a counted sample as far: launch order "
        f"{'shows no bias' if plain else 'is not like a random order here'}."
    ]
    if luck.p < SURPRISING:
        words.append(
            f"{name}: mean lengths by place in the launch order vary {luck.spread:.1f} times as much as "
            "independent draws would, so samples at one place are alike in all prompts, as with seeds "
            "shared by all prompts. The samples hold less luck than their number says: intervals over "
            "prompts do not show that, and are too narrow for the recorded order."
        )
    return words


def _orders(pools: Pools, group: Group) -> Orders:
    draws, limit = shuffled(pools, group), group.depth
    used = np.arange(pools.tokens.shape[1]) < pools.count[group.prompts][:, None]
    pool = np.where(used, pools.tokens[group.prompts], 0.0).sum(axis=1) / used.sum(axis=1)
    ends = np.isin(np.arange(1, limit + 1), wave_ends(limit))
    told: dict[str, tuple[Floats, Floats, Floats]] = {
        FREE: _count(draws),
        LAUNCH: _count(launched(pools, group)),
        WAVES: _count(draws, looks=ends),
        IN_WAVES: _count(draws.arranged(by_arrival(draws.tokens, wave_ends(limit)))),
        ARRIVAL: _count(draws.arranged(by_arrival(draws.tokens, [limit]))),
    }
    free = told[FREE]
    countings = tuple(
        Counting(
            order,
            mean(samples),
            ratio(length, pool),
            _correlation(length, pool),
            mean(score),
            mean(score - free[2]),
        )
        for order, (samples, length, score) in told.items()
    )

    shared = [_count(order) for order in shared_orders(pools, group)]
    gaps = tuple(ratio(length, free[1]) for _, length, _ in told.values())
    p_length, p_accuracy = (_rank(told[LAUNCH][part], [order[part] for order in shared]) for part in (1, 2))
    return Orders(group, countings, gaps, p_length, p_accuracy, shared_luck(pools, group))


def _rank(recorded: Floats, shared: list[Floats]) -> float:
    """Of orders shared by all prompts, how many are as far from their mean as the recorded one."""
    means = np.array([values.mean() for values in shared])
    return rank(abs(float(recorded.mean() - means.mean())), np.abs(means - means.mean()))


def by_arrival(tokens: Floats, ends: list[int]) -> Ints:
    """Order in which samples (draws, limit) are done, wave by wave, at one speed; ties as launched."""
    begun, parts = 0, []
    for end in ends:
        parts.append(begun + tokens[:, begun:end].argsort(axis=1, kind="stable"))
        begun = end
    return np.concatenate(parts, axis=1)


def _count(draws: Draws, looks: np.ndarray | None = None) -> tuple[Floats, Floats, Floats]:
    """Samples counted, their mean tokens, and the answer's score: a number a prompt each."""
    counted, limit = draws.counted(), draws.tokens.shape[1]
    stop = settled(counted, limit, limit, CONFIDENCE)
    counts = first_stop(stop if looks is None else stop & looks, limit)
    score = np.take_along_axis(counted.score, counts[:, None] - 1, axis=1)[:, 0]
    length = draws.tokens_of(counts) / counts
    return draws.per_prompt(counts), draws.per_prompt(length), draws.per_prompt(score)


def _correlation(one: Floats, other: Floats) -> float:
    if len(one) < 2 or one.std() == 0 or other.std() == 0:
        return float("nan")
    return float(np.corrcoef(one, other)[0, 1])
