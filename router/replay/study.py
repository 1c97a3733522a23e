"""What a policy that was never live would have come to, with intervals, and whether the log can tell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from router.replay.bootstrap import RESAMPLES, UNKNOWN, Interval, interval
from router.replay.estimators import Ratio, clipped, doubly_robust, ips, snips
from router.replay.log import LogReplay
from router.replay.model import COSTS
from router.replay.rows import MEASURES, REWARD, Flags, Measured, Rows, Vector
from router.replay.verdict import MIN_ESS, Weights, notes, verdict, weighed

ESTIMATORS = ("ips", "snips", "dr")


@dataclass(frozen=True, slots=True)
class Figure:
    """One measure: of the log as it was, of the policy by three estimators, and DR less the log.

    Each with its 90 % interval; NaN where the log does not tell. Accuracy and tiers are of answered requests,
    costs of all, refused ones at 0. `why_not` says why a measure is not estimated, "" where it is.
    """

    logged: Interval
    ips: Interval = UNKNOWN
    snips: Interval = UNKNOWN
    dr: Interval = UNKNOWN
    difference: Interval = UNKNOWN
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class Rate:
    """A share that planning alone tells, in the log and under the policy, and the difference."""

    logged: Interval
    planned: Interval
    difference: Interval


@dataclass(frozen=True, slots=True)
class LogStudy:
    """`supported`: whether the log can answer; `verdict` says why, `notes` what else to know."""

    supported: bool
    verdict: str
    notes: tuple[str, ...]
    weights: Weights
    figures: Mapping[str, Figure]
    rates: Mapping[str, Rate]


def study_log(
    replayed: LogReplay,
    *,
    seed: int = 0,
    clip: float | None = None,
    resamples: int = RESAMPLES,
    measures: Sequence[str] = MEASURES,
    insist: bool = False,
) -> LogStudy:
    """Estimate the measures; `clip` bounds the weights, intervals are bootstrapped from `resamples`.

    What the log cannot support is not estimated, unless one insists.
    """
    rows = replayed.rows
    weights = clipped(rows.weights, clip)
    seen = weighed(rows, weights)
    supported, said = verdict(replayed, seen)
    told = [name for name in measures if name not in COSTS or replayed.model.knows(name)]
    figures = {}
    for name in told:
        why_not = "" if supported else "the log cannot support it"
        known = np.isfinite(rows.measures[name].logged) & ~rows.refused
        if not known.any():
            why_not = "the log does not tell it"
        elif supported and name == REWARD and seen.rewarded < MIN_ESS and not seen.planned_alone:
            why_not = f"known rewards are worth {seen.rewarded:.0f} of the policy's own"
        whole = _Sums(rows, rows.measures[name], weights, costs=name in COSTS)
        bounds = (0.0, math.inf if name in COSTS else 1.0)
        figures[name] = whole.figure(seed, resamples, bounds, "" if insist and known.any() else why_not)
    rate = partial(_rate, seed=seed, resamples=resamples)
    return LogStudy(
        supported=supported,
        verdict=said,
        notes=notes(replayed, seen, clip),
        weights=seen,
        figures=figures,
        rates={
            "refusals": rate(rows.was_refused, rows.refused),
            "degradations": rate(rows.was_degraded, rows.degraded),
        },
    )


class _Sums:
    """One measure's ratios. Rows that do not count stay in as zeros above and below: all are paired."""

    def __init__(self, rows: Rows, measured: Measured, weights: Vector, *, costs: bool) -> None:
        known = np.isfinite(measured.logged)
        # A refusal costs nothing, for certain: it needs no weight. The log's own refusals need the model.
        sure = rows.refused & known if costs else np.zeros(len(rows), dtype=np.bool_)
        self._counted = known if costs else known & ~rows.refused
        self._measured, self._rows = measured, rows
        usable = self._counted & (rows.chosen | sure)
        w = np.where(sure, 1.0, np.where(rows.chosen & ~rows.refused, weights, 0.0))
        value = np.where(sure | ~known, 0.0, measured.mended)
        taken, other = (np.where(sure, 0.0, each) for each in (measured.taken, measured.other))
        self.plain = Ratio(np.where(known, measured.logged, 0.0), known.astype(np.float64))
        self.ips = _only(ips(w, value), usable)
        self.snips = _only(snips(w, value), usable)
        self.robust = _only(doubly_robust(w, value, taken, other), self._counted)

    def figure(self, seed: int, resamples: int, bounds: tuple[float, float], why_not: str) -> Figure:
        found = partial(interval, seed=seed, resamples=resamples)
        logged = found(self.plain)
        if why_not:
            return Figure(logged.within(*bounds), why_not=why_not)
        m, most = self._measured, bounds[1]
        of = self.snips.value
        spread = m.noise + m.second
        around = spread - 2.0 * of * m.first + of * of * self._rows.squared
        return Figure(
            logged=logged.within(*bounds),
            ips=found(self.ips, least_error=self._error(spread - self.ips.value**2)).within(*bounds),
            snips=found(self.snips, least_error=self._error(around)).within(*bounds),
            dr=found(self.robust, least_error=self._error(m.noise, m.other)).within(*bounds),
            difference=found(
                self.robust, self.plain, least_error=self._error(m.noise_apart, m.other - m.before)
            ).within(-most, most),
        )

    def _error(self, noise: Vector, means: Vector | None = None) -> float:
        """The standard error that propensities and model imply: sqrt((mean(noise) + var(means)) / n).

        The resampled one has seen only what was drawn. Where the policy differs from the log on few requests,
        and the log explored few of those, that is next to nothing, and the interval would be far too short.
        """
        counted = self._counted
        between = 0.0 if means is None else float(means[counted].var())
        return float(np.sqrt(max(0.0, between + float(noise[counted].mean())) / counted.sum()))


def _only(ratio: Ratio, mask: Flags) -> Ratio:
    return Ratio(np.where(mask, ratio.top, 0.0), np.where(mask, ratio.bottom, 0.0))


def _rate(was: Vector | Flags, planned: Vector | Flags, *, seed: int, resamples: int) -> Rate:
    ones = np.ones(len(was))
    found = partial(interval, seed=seed, resamples=resamples)
    before, after = Ratio(was.astype(np.float64), ones), Ratio(planned.astype(np.float64), ones)
    return Rate(found(before), found(after), found(after, before))
