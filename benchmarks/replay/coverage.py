"""Many simulated logs, several policies that were never live: how often do the intervals cover the truth?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.replay.world import World, changed, live_policy
from policies.schema import Policy
from router.replay.log import replay_log
from router.replay.study import study_log

ESTIMATORS = ("ips", "snips", "dr")
RATE = 0.1
DECISIONS = 1_000
FEEDBACK = 0.5
RESAMPLES = 250
SURE: Mapping[str, float] = {"rate": 0.0}

MEASURES = ("accuracy", "tokens", "cost_usd")


def targets(live: Policy) -> Mapping[str, Policy]:
    """The policies that were never live, by what they are."""
    return {
        "dearer: cost_weight a quarter": changed(live, exploration=SURE, cost_weight=0.005),
        "cheaper: cost_weight twice": changed(live, exploration=SURE, cost_weight=0.04),
        "accepting sooner: escalate_below 0.4": changed(
            live, exploration=SURE, escalate_below={"direct": 0.4, "consistency": 0.4}
        ),
        "votes alone (heavy mismatch)": changed(live, exploration=SURE, tiers=["consistency"]),
    }


@dataclass(frozen=True, slots=True)
class Trial:
    """One log under one policy. `figures`: (measure, estimator) -> value, low, high."""

    target: str
    supported: bool
    effective: float
    mended: float
    figures: Mapping[tuple[str, str], tuple[float, float, float]]


@dataclass(frozen=True, slots=True)
class Cell:
    """One policy, measure and estimator over all logs."""

    target: str
    measure: str
    estimator: str
    truth: float
    covered: float
    bias: float
    width: float
    logs: int
    supported: float


_WORLD: list[World] = []


def _world(table: Path) -> World:
    if not _WORLD:
        _WORLD.append(World.of(table, live_policy(RATE)))
    return _WORLD[0]


def trials(table: Path, seed: int) -> list[Trial]:
    """One simulated log, replayed under every policy."""
    world = _world(table)
    log = world.log(DECISIONS, seed, FEEDBACK)
    found = []
    for name, policy in targets(world.live).items():
        study = study_log(
            replay_log(lambda: log, policy), seed=seed, resamples=RESAMPLES, measures=MEASURES, insist=True
        )
        figures = {}
        for measure in MEASURES:
            for estimator in ESTIMATORS:
                told = getattr(study.figures[measure], estimator)
                figures[measure, estimator] = (told.value, told.low, told.high)
        found.append(Trial(name, study.supported, study.weights.effective, study.weights.mended, figures))
    return found


def run(table: Path, logs: int, workers: int, done: Callable[[], None]) -> Iterator[Trial]:
    """Every trial of `logs` logs."""
    with ProcessPoolExecutor(workers) as pool:
        waiting = [pool.submit(trials, table, seed) for seed in range(logs)]
        for one in waiting:
            yield from one.result()
            done()


def cells(table: Path, found: Sequence[Trial]) -> list[Cell]:
    """Coverage, bias and width of every policy, measure and estimator."""
    world = _world(table)
    rows = []
    for name, policy in targets(world.live).items():
        truth = world.truth(policy)
        mine = [trial for trial in found if trial.target == name]
        for measure in MEASURES:
            for estimator in ESTIMATORS:
                told = np.array([trial.figures[measure, estimator] for trial in mine])
                inside = (told[:, 1] <= truth[measure] * (1 + 1e-9)) & (
                    truth[measure] * (1 - 1e-9) <= told[:, 2]
                )
                rows.append(
                    Cell(
                        target=name,
                        measure=measure,
                        estimator=estimator,
                        truth=truth[measure],
                        covered=float(inside.mean()),
                        bias=float(np.nanmean(told[:, 0]) - truth[measure]),
                        width=float(np.nanmean(told[:, 2] - told[:, 1])),
                        logs=len(mine),
                        supported=float(np.mean([trial.supported for trial in mine])),
                    )
                )
    return rows
