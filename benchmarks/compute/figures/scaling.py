"""Coverage of k samples and accuracy of the majority of k, with curves fitted to both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.compute.bootstrap import Interval, interval, mean, means
from benchmarks.compute.curves import Fit, coverage, fit_coverage, fit_majority, spread
from benchmarks.compute.figures.stopping import FEWEST_SAMPLES
from benchmarks.compute.grid import Figure, Grid, percent
from benchmarks.compute.groups import SIZES, Group, by_difficulty, depth_groups
from benchmarks.compute.replay import shuffled
from benchmarks.compute.table import Floats, Recording

RIGHT = 0.5  # scores from here on count as right


@dataclass(frozen=True, slots=True)
class Growth:
    """One measure over k = 1..depth: `values` (prompts, depth), and the curve fitted to their means."""

    group: Group
    part: str
    measure: str
    values: Floats
    fitted: Fit
    parameters: tuple[Interval, ...]

    @property
    def curve(self) -> Floats:
        return np.asarray(self.values.mean(axis=0))


def measure(recording: Recording) -> list[Growth]:
    growths: list[Growth] = []
    for group in depth_groups(recording):
        if group.depth >= FEWEST_SAMPLES:
            for part in by_difficulty(recording, group):
                growths += _growths(recording, group, part)
    return growths


def figure(growths: list[Growth], plot: str | None) -> Figure:
    if not growths:
        return Figure("scaling", (f"No prompts with {FEWEST_SAMPLES} samples or more: no curve to fit.",))
    words = []
    for growth in growths:
        if growth.part == "all":
            depth = growth.group.depth
            reached = percent(mean(growth.values[:, -1]))
            gain = mean(growth.values[:, -1] - growth.values[:, 0])
            words.append(
                f"{growth.group.name}: {growth.measure} of {depth} samples is {reached} %, "
                f"{gain.text(1, 100.0, sign=True)} points from one sample's."
            )
    grids = [_values(growths, group) for group in dict.fromkeys(g.group.name for g in growths)]
    return Figure("scaling", tuple(words), (*grids, *_fits(growths)), plot)


def _growths(recording: Recording, group: Group, part: Group) -> tuple[Growth, Growth]:
    pools, depth = recording.pools, part.depth
    used = np.arange(pools.scores.shape[1]) < pools.count[part.prompts][:, None]
    right = ((pools.scores[part.prompts] >= RIGHT) & used).sum(axis=1)
    covered = coverage(right, pools.count[part.prompts], depth)
    draws = shuffled(pools, part)
    voted = draws.per_prompt(draws.counted().score)
    k = spread(depth)
    return (
        _growth(group, part, "coverage", covered, k),
        _growth(group, part, "majority", voted, k[k != 2]),  # two votes are a tie or one answer
    )


def _growth(group: Group, part: Group, measure: str, values: Floats, k: np.ndarray) -> Growth:
    fit = fit_coverage if measure == "coverage" else fit_majority
    whole = fit(k, values.mean(axis=0)[None, k - 1])
    drawn = fit(k, means(values[:, k - 1]))
    pairs = zip(whole.parameters, drawn.parameters, strict=True)
    told = tuple(interval(float(value[0]), resampled) for value, resampled in pairs)
    return Growth(group, part.name, measure, values, whole, told)


def _values(growths: list[Growth], group: str) -> Grid:
    mine = [growth for growth in growths if growth.group.name == group]
    sizes = [k for k in SIZES if k <= mine[0].group.depth and k not in (2, 32)]
    rows = tuple(
        (f"{g.measure}, {g.part}", *(mean(g.values[:, k - 1]).text(0, 100.0) for k in sizes)) for g in mine
    )
    return Grid(f"Of k samples, %: {group}", ("k", *map(str, sizes)), rows)


def _fits(growths: list[Growth]) -> list[Grid]:
    titles = {
        "coverage": "Coverage c(k) = exp(a k^b), fitted",
        "majority": "Majority m(k) = m_inf - d k^-e, fitted",
    }
    grids = []
    for measured, title in titles.items():
        mine = [growth for growth in growths if growth.measure == measured]
        columns = ("prompts", *mine[0].fitted.names, "residual, points")
        rows = tuple(
            (f"{g.part}, {g.group.name}", *(_told(p) for p in g.parameters), _residual(g)) for g in mine
        )
        grids.append(Grid(title, columns, rows))
    return grids


def _told(parameter: Interval) -> str:
    return "not fitted" if np.isnan(parameter.value) else parameter.text(2)


def _residual(growth: Growth) -> str:
    return f"{100 * growth.fitted.residual[0]:.2f}" if np.isfinite(growth.fitted.residual[0]) else "-"
