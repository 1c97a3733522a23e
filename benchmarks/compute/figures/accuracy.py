"""Accuracy against completion tokens, for every strategy that the samples can tell of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.compute.bootstrap import mean
from benchmarks.compute.grid import Figure, Grid, listed, percent, versus
from benchmarks.compute.groups import Group, depth_groups, family_groups, searched_group
from benchmarks.compute.replay import Outcome, recorded, strategies
from benchmarks.compute.table import Recording


@dataclass(frozen=True, slots=True)
class Frontier:
    """All strategies on one group of prompts."""

    group: Group
    outcomes: tuple[Outcome, ...]

    def named(self, kind: str, samples: int | None = None) -> Outcome | None:
        """The outcome of a kind with that many samples at most, with the most if left out."""
        found = [o for o in self.outcomes if o.kind == kind]
        if samples is not None:
            found = [o for o in found if o.name.endswith(f" {samples}")]
        return found[-1] if found else None


def measure(recording: Recording) -> tuple[list[Frontier], list[Frontier]]:
    """Over groups of prompts, and a family at a time."""
    groups = depth_groups(recording)
    searched = searched_group(recording)
    if searched is not None and not any(np.array_equal(searched.prompts, g.prompts) for g in groups):
        groups.append(searched)
    overall = [Frontier(group, tuple(strategies(recording, group))) for group in groups]
    by_family = [Frontier(group, tuple(strategies(recording, group))) for group in family_groups(recording)]
    return overall, by_family


def figure(
    recording: Recording, overall: list[Frontier], by_family: list[Frontier], plot: str | None
) -> Figure:
    if not overall:
        return Figure("accuracy", (_nothing(recording),))
    grids = [
        Grid(
            f"Accuracy against completion tokens: {frontier.group.name}",
            ("strategy", "samples", "completion tokens", "accuracy, %"),
            tuple(_row(outcome) for outcome in frontier.outcomes),
        )
        for frontier in overall
    ]
    grids.append(_families(by_family))
    words = [sentence for frontier in overall for sentence in _words(recording, frontier)]
    return Figure("accuracy", tuple(words), tuple(grids), plot)


def _row(outcome: Outcome) -> tuple[str, ...]:
    samples = mean(outcome.samples)
    told = "as recorded" if outcome.kind in ("recorded", "search") else f"{samples.value:.1f}"
    return outcome.name, told, mean(outcome.tokens).text(0), percent(mean(outcome.accuracy))


def _words(recording: Recording, frontier: Frontier) -> list[str]:
    best = max(frontier.outcomes, key=lambda o: (o.accuracy.mean(), -o.tokens.mean()))
    deepest = frontier.named("majority", frontier.group.depth)
    words = [
        f"{frontier.group.name}: the highest accuracy is that of {best.name}, "
        f"{percent(mean(best.accuracy))} % at {mean(best.tokens).text(0)} tokens."
    ]
    others = (
        frontier.named("one"),
        frontier.named("adaptive", frontier.group.depth),
        frontier.named("weighted", frontier.group.depth),
        frontier.named("best", frontier.group.depth),
    )
    if deepest is not None:
        for other in others:
            if other is not None:
                difference = mean(other.accuracy - deepest.accuracy)
                words.append(versus(f"{frontier.group.name}: {other.name}", deepest.name, difference))
    told = {outcome.name for outcome in frontier.outcomes}
    if missing := [arm for arm in recording.recorded if arm not in told]:
        words.append(f"{frontier.group.name}: not every prompt has {listed(missing)}, so not shown here.")
    return words


def _families(by_family: list[Frontier]) -> Grid:
    arms = [o.name for o in by_family[0].outcomes if o.kind == "recorded"][:2]
    rows = []
    for frontier in by_family:
        known = {o.name: o for o in frontier.outcomes}
        cells = [known.get(arm) for arm in arms]
        cells += [frontier.named("one"), frontier.named("majority") or frontier.named("one")]
        size = f"{frontier.group.prompts.size} x {frontier.group.depth}"
        told = [mean(cell.accuracy).text(0, 100.0) if cell else "" for cell in cells]
        rows.append((frontier.group.name, size, *told))
    columns = ("family", "prompts x k", *arms, "one sample", "majority of k")
    return Grid("Accuracy by family, %", columns, tuple(rows))


def _nothing(recording: Recording) -> str:
    whole = Group("all prompts", np.arange(len(recording.table.items)), 1)
    arms = recorded(recording, whole)
    told = listed(f"{o.name} {percent(mean(o.accuracy))} % at {mean(o.tokens).text(0)} tokens" for o in arms)
    return "The table lists no samples of a self-consistency arm, so no strategy can be replayed." + (
        f" As recorded: {told}." if arms else ""
    )
