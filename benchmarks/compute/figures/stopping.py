"""Adaptive stopping against a fixed number of samples: how many fewer, and at what loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from backends.strategies.self_consistency import VOTELESS_SAMPLES
from benchmarks.compute.bootstrap import Interval, mean, ratio
from benchmarks.compute.grid import Figure, Grid, points
from benchmarks.compute.groups import Group
from benchmarks.compute.replay import CONFIDENCE, Draws, shuffled
from benchmarks.compute.table import Ints, Recording
from benchmarks.compute.votes import IMPOSSIBLE, NEVER, Prefixes, first_stop, settled, stops
from benchmarks.compute.waves import tokens_in_waves

AIM = 3.0  # times fewer samples than fixed
FEWEST_SAMPLES = 4
BOTH = "Beta and lossless"
SERVICE = "the service's"
BOLDER = (0.9, 0.85, 0.8, 0.77)  # thresholds that an operator may set (`confidence`); 0.75 is one vote


@dataclass(frozen=True, slots=True)
class Saving:
    """One rule against a fixed number of samples: ratios are fixed over adaptive.

    `difference` is of accuracy.
    `launched` is the ratio of tokens where what the waves had begun when the vote was settled counts too.
    """

    rule: str
    samples: Interval
    tokens: Interval
    launched: Interval
    difference: Interval


@dataclass(frozen=True, slots=True)
class Savings:
    """Every rule on one group, whose depth is the fixed number of samples."""

    group: Group
    rules: tuple[Saving, ...]

    def of(self, rule: str) -> Saving:
        return next(saving for saving in self.rules if saving.rule == rule)


def bolder(confidence: float) -> str:
    """The name of both stops at another threshold."""
    return f"both, Beta at {confidence:g}"


def measure(recording: Recording, groups: list[Group]) -> list[Savings]:
    """Of the groups that have samples enough."""
    return [
        _savings(shuffled(recording.pools, group), group) for group in groups if group.depth >= FEWEST_SAMPLES
    ]


def figure(measured: list[Savings], by_family: list[Savings], plot: str | None) -> Figure:
    if not measured:
        return Figure("stopping", (f"No prompts with {FEWEST_SAMPLES} samples or more: nothing to stop.",))
    grids = tuple(
        Grid(
            f"Stopping against fixed {savings.group.depth}: {savings.group.name}",
            ("rule", "samples, x fewer", "tokens, x fewer", "with waves cut", "accuracy, points"),
            tuple(
                (s.rule, s.samples.text(2), s.tokens.text(2), s.launched.text(2), points(s.difference))
                for s in savings.rules
            ),
        )
        for savings in measured
    )
    families = Grid(
        f"{BOTH} against fixed k, by family",
        ("family", "prompts x k", "samples, x fewer", "tokens, x fewer", "accuracy, points"),
        tuple(
            (
                s.group.name,
                f"{s.group.prompts.size} x {s.group.depth}",
                s.of(BOTH).samples.text(2),
                s.of(BOTH).tokens.text(2),
                points(s.of(BOTH).difference),
            )
            for s in by_family
        ),
    )
    words = tuple(said for savings in measured for said in (_words(savings), _furthest(savings)))
    return Figure("stopping", words, (*grids, families), plot)


def _furthest(savings: Savings) -> str:
    """The largest saving that these prompts cannot tell from a free one, and what the boldest rule loses."""
    boldest = max(savings.rules, key=_fewer)
    free = max((s for s in savings.rules if s.difference.holds(0.0)), key=_fewer, default=None)
    said = []
    if free is not None:
        said.append(f"{free.rule} draws the fewest at a difference whose interval includes 0{_what(free)}")
    if boldest is not free:
        said.append(f"{boldest.rule} draws the fewest of all{_what(boldest)}")
    return f"Against fixed {savings.group.depth} ({savings.group.name}), of all rules: {'; '.join(said)}."


def _fewer(saving: Saving) -> float:
    return saving.samples.value


def _what(saving: Saving) -> str:
    return f" ({saving.samples.text(2)} times fewer, {points(saving.difference)} points)"


def _words(savings: Savings) -> str:
    both, depth = savings.of(BOTH), savings.group.depth
    fewer = both.samples.value >= AIM
    equal = both.difference.holds(0.0)
    reached = "reached" if fewer and equal else "missed"
    cost = "whose interval includes 0" if equal else "whose interval leaves 0 out"
    return (
        f"Against fixed {depth} ({savings.group.name}), Beta and lossless together draw "
        f"{both.samples.text(2)} times fewer samples, at an accuracy difference of "
        f"{points(both.difference)} points, {cost}. The aim of {AIM:g} times fewer at a difference whose "
        f"interval includes 0 is {reached}."
    )


def _savings(draws: Draws, group: Group) -> Savings:
    counted, limit = draws.counted(), group.depth
    both = settled(counted, limit, limit, CONFIDENCE)
    voteless = counted.leader_votes[:, :limit] == 0
    voteless[:, : VOTELESS_SAMPLES - 1] = False
    rules = {
        BOTH: first_stop(both, limit),
        "Beta alone": stops(counted, limit, CONFIDENCE, rule_limit=NEVER),
        "lossless alone": stops(counted, limit, IMPOSSIBLE),
        SERVICE: first_stop(both | voteless, limit),
        **{bolder(c): stops(counted, limit, c) for c in BOLDER},
    }
    rows = tuple(_saving(name, draws, counted, counts, limit) for name, counts in rules.items())
    return Savings(group, rows)


def _saving(rule: str, draws: Draws, counted: Prefixes, counts: Ints, limit: int) -> Saving:
    whole = draws.per_prompt(draws.tokens.sum(axis=1))
    score = np.take_along_axis(counted.score, counts[:, None] - 1, axis=1)[:, 0]
    return Saving(
        rule,
        ratio(np.full(len(whole), float(limit)), draws.per_prompt(counts)),
        ratio(whole, draws.per_prompt(draws.tokens_of(counts))),
        ratio(whole, draws.per_prompt(tokens_in_waves(draws.tokens, counts))),
        mean(draws.per_prompt(score) - draws.per_prompt(counted.score[:, limit - 1])),
    )
