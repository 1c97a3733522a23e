"""Tree search against self-consistency at equal tokens."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from benchmarks.compute.bootstrap import Interval, interval, mean, means
from benchmarks.compute.grid import Figure, Grid, listed, points
from benchmarks.compute.groups import FEWEST_PROMPTS, SIZES, Group
from benchmarks.compute.replay import CONFIDENCE, Draws, shuffled
from benchmarks.compute.table import Floats, Recording
from benchmarks.compute.votes import Prefixes, stops
from benchmarks.compute.waves import launched_in_waves, tokens_in_waves

COMPLETION, CHARGED = "completion", "charged"
MAJORITY, ADAPTIVE = "majority", "adaptive"
NAMES = {MAJORITY: "a majority of all samples drawn", ADAPTIVE: "adaptive self-consistency"}


@dataclass(frozen=True, slots=True)
class Curve:
    """Self-consistency at every size: `accuracy` and `tokens` (prompts, sizes), by what is counted."""

    name: str
    accuracy: Floats
    tokens: dict[str, Floats]


@dataclass(frozen=True, slots=True)
class Match:
    """A search arm against a curve at the arm's mean tokens; `difference` is search - self-consistency.

    `outside` says that the curve does not reach that many (or so few) tokens: its end stands in.
    """

    against: str
    counting: str
    tokens: Interval
    other: Interval
    difference: Interval
    outside: bool


@dataclass(frozen=True, slots=True)
class Duel:
    """All matches of one arm, on the prompts that have it; `least` where charged tokens are a lower bound."""

    arm: str
    group: Group
    accuracy: Interval
    curves: tuple[Curve, ...]
    matches: tuple[Match, ...]
    least: bool

    def match(self, against: str, counting: str) -> Match:
        return next(m for m in self.matches if (m.against, m.counting) == (against, counting))


def measure(recording: Recording) -> list[Duel]:
    return [duel for arm in recording.searches if (duel := _duel(recording, arm)) is not None]


def figure(recording: Recording, duels: list[Duel], plot: str | None) -> Figure:
    told = {duel.arm for duel in duels}
    few = [arm for arm in recording.searches if arm not in told]
    words = []
    if duels:
        words += _verdicts(duels)
    if any(match.outside for duel in duels for match in duel.matches):
        words.append("Where the samples do not reach a search's tokens (*), the nearest size is compared.")
    if not recording.searches:
        words.append("The table has no row of a search arm.")
    if few:
        words.append(f"Fewer than {FEWEST_PROMPTS} prompts have samples and {listed(few)}: not compared.")
    if any(duel.least for duel in duels):
        words.append(
            "The table does not tell what every search row was charged: a prompt a whole reply is the least "
            "it can be, so charged tokens favour the search here."
        )
    grid = Grid(
        "Tree search against self-consistency at equal tokens",
        ("arm, prompts", "against", "tokens", "a prompt", "search, %", "other, %", "points"),
        tuple(_row(duel, match) for duel in duels for match in duel.matches),
    )
    return Figure("search", tuple(words), (grid,) if duels else (), plot if duels else None)


def _verdicts(duels: list[Duel]) -> list[str]:
    """Who wins, one sentence for each way to count tokens and each rival."""
    words = []
    for counting, against in product((COMPLETION, CHARGED), NAMES):
        found: dict[str, list[str]] = {}
        for duel in duels:
            match = duel.match(against, counting)
            found.setdefault(_verdict(match.difference), []).append(
                f"{duel.arm} ({points(match.difference)} points)"
            )
        told = "; ".join(f"{verdict}: {listed(arms)}" for verdict, arms in found.items())
        words.append(f"At equal {counting} tokens, against {NAMES[against]}: {told}.")
    return words


def _verdict(difference: Interval) -> str:
    if difference.holds(0.0):
        return "cannot be told apart"
    return "search is better" if difference.value > 0 else "search is worse"


def _row(duel: Duel, match: Match) -> tuple[str, ...]:
    least = ">= " if duel.least and match.counting == CHARGED else ""
    outside = " *" if match.outside else ""
    return (
        f"{duel.arm}, {duel.group.prompts.size}",
        match.against,
        match.counting,
        f"{least}{match.tokens.value:.0f}{outside}",
        duel.accuracy.text(0, 100.0),
        match.other.text(0, 100.0),
        points(match.difference),
    )


def _duel(recording: Recording, arm: str) -> Duel | None:
    column = recording.table.arms.index(arm)
    has = ~np.isnan(recording.table.scores[:, column]) & (recording.pools.count > 0)
    prompts = np.flatnonzero(has)
    if prompts.size < FEWEST_PROMPTS:
        return None
    depth = max(k for k in SIZES if k <= recording.pools.count[prompts].min())
    group = Group(f"{arm}, {prompts.size} prompts", prompts, depth)
    scores = recording.table.scores[prompts, column]
    spent = {
        COMPLETION: recording.table.tokens[prompts, column],
        CHARGED: recording.charged[prompts, column],
    }
    curves = sc_curves(shuffled(recording.pools, group), recording.prompt_tokens[prompts])
    matches = tuple(
        _match(curve, counting, scores, spent[counting]) for curve in curves for counting in spent
    )
    least = not bool(recording.charged_known[prompts, column].all())
    return Duel(arm, group, mean(scores), curves, matches, least)


def sc_curves(draws: Draws, prompt_tokens: Floats) -> tuple[Curve, Curve]:
    """Majority of k and adaptive with at most k, k = 1..depth; charged tokens count the prompt every time."""
    counted = draws.counted()
    sizes = np.arange(1, draws.tokens.shape[1] + 1)
    tokens = draws.per_prompt(draws.tokens.cumsum(axis=1))
    charged = tokens + sizes * prompt_tokens[:, None]
    fixed = Curve(MAJORITY, draws.per_prompt(counted.score), {COMPLETION: tokens, CHARGED: charged})
    return fixed, _adaptive(draws, counted, prompt_tokens)


def _adaptive(draws: Draws, counted: Prefixes, prompt_tokens: Floats) -> Curve:
    columns: list[tuple[Floats, Floats, Floats]] = []
    for limit in range(1, draws.tokens.shape[1] + 1):
        counts = stops(counted, limit, CONFIDENCE)
        score = np.take_along_axis(counted.score, counts[:, None] - 1, axis=1)[:, 0]
        tokens = draws.per_prompt(tokens_in_waves(draws.tokens[:, :limit], counts))
        charged = tokens + draws.per_prompt(launched_in_waves(counts, limit)) * prompt_tokens
        columns.append((draws.per_prompt(score), tokens, charged))
    accuracy, tokens, charged = (np.stack(parts, axis=1) for parts in zip(*columns, strict=True))
    return Curve(ADAPTIVE, accuracy, {COMPLETION: tokens, CHARGED: charged})


def _match(curve: Curve, counting: str, scores: Floats, spent: Floats) -> Match:
    tokens = curve.tokens[counting]
    whole = equal(curve.accuracy.mean(axis=0), tokens.mean(axis=0), float(spent.mean()))
    drawn = zip(means(curve.accuracy), means(tokens), means(spent), strict=True)
    others = np.array([equal(accuracy, at, float(target)) for accuracy, at, target in drawn])
    reach = tokens.mean(axis=0)
    return Match(
        curve.name,
        counting,
        mean(spent),
        interval(whole, others),
        interval(float(scores.mean()) - whole, means(scores) - others),
        not bool(reach.min() <= spent.mean() <= reach.max()),
    )


def equal(accuracy: Floats, tokens: Floats, target: float) -> float:
    """Accuracy of a curve at `target` tokens: linear between sizes, held at its ends."""
    return float(np.interp(target, np.maximum.accumulate(tokens), accuracy))
