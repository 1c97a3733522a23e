"""What a log comes to under another policy: columns for the estimators, and what was passed over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from policies.arm_spec import TIERS
from router.replay.model import COSTS

Vector = NDArray[np.float64]
Flags = NDArray[np.bool_]

REWARD = "accuracy"
MEASURES = (REWARD, *COSTS, *TIERS)


@dataclass(frozen=True, slots=True)
class Measured:
    """One measure of every row, each (n,).

    `logged` is what came of it, NaN where nobody knows. `mended` is the same, with the model's word for the
    rest of a run that the policy would have carried on, or ended, otherwise. The others are the model's word
    (`measuring.Said`).
    """

    logged: Vector
    mended: Vector
    taken: Vector
    other: Vector
    before: Vector
    noise: Vector
    first: Vector
    second: Vector
    noise_apart: Vector


@dataclass(frozen=True, slots=True)
class Rows:
    """Every decision that was planned anew, in the order of the log.

    `weights`: the logged start's propensity under the policy over that in the log, 0 where they part;
    `squared` is what its square is expected to be. `same`: the whole run would have been the logged one.
    `chosen`: the log chose a start and told its propensities; `drawn`: it could have been another. `refused`
    by the policy, `was_refused` by the log, and so for `degraded`. `lacking`: the policy's propensity of
    starts that the log could not have drawn.
    """

    weights: Vector
    same: Flags
    chosen: Flags
    drawn: Flags
    refused: Flags
    was_refused: Flags
    degraded: Vector
    was_degraded: Vector
    lacking: Vector
    squared: Vector
    measures: Mapping[str, Measured]

    def __len__(self) -> int:
        return len(self.weights)


@dataclass(frozen=True, slots=True)
class Support:
    """An arm as the policy would use it and as the log did.

    `wanted` sums the policy's propensities of starting there, `lacking` the part of them where the log's was
    0; `logged` counts its runs that started there. `other_spec`: the log's arm of that name has other
    parameters; `predicted`: the log's classifier knows it.
    """

    arm: str
    wanted: float
    lacking: float
    logged: int
    other_spec: bool
    predicted: bool


@dataclass(slots=True)
class Counts:
    """Decisions of the log by what became of them here; `paths` of those whose start the policy shares."""

    read: int = 0
    other_tenants: int = 0
    unknown_tenants: Counter[str] = field(default_factory=Counter)
    from_cache: int = 0
    unplanned: int = 0
    without_propensities: int = 0
    rewards: int = 0
    unordered: int = 0
    policies: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    paths: Counter[str] = field(default_factory=Counter)
