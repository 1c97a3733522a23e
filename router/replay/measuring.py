"""One measure of one decision: as it was logged, as the model has it, and mended where the ways part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from router.decisions.record import Decision
from router.replay.model import COSTS, LogModel
from router.replay.paths import Path
from router.replay.rows import REWARD


@dataclass(frozen=True, slots=True)
class Said:
    """The model's word on one measure of one decision.

    `taken` is its value of the logged start; `other` and `before` are its means over what the policy would do
    and over what the log could have done. The rest says how noisy an estimator is if the model is right and
    the propensities are as told. Sums over a of pi(a)^2 / b(a) times var(a), q(a) and q(a)^2 are `noise`,
    `first` and `second`. For DR less what was logged there is `noise_apart`:
    sum_a b(a) ((pi(a) / b(a) - 1)^2 var(a) + (q(a) - before)^2).
    """

    taken: float = 0.0
    other: float = 0.0
    before: float = 0.0
    noise: float = 0.0
    first: float = 0.0
    second: float = 0.0
    noise_apart: float = 0.0


class Measuring:
    """What the model says, by the name of the measure (`rows.MEASURES`)."""

    def __init__(self, model: LogModel) -> None:
        self._of = model

    def said(self, name: str, decision: Decision, starts: Mapping[str, float], started: str | None) -> Said:
        """`starts` are the policy's, `started` the log's; arms that were not predicted are worth nothing."""
        arms = {arm for arm in (*starts, *decision.starts) if arm in decision.arms}
        told = {arm: self._value(name, arm, decision) for arm in arms}
        other = sum(share * told[arm][0] for arm, share in starts.items() if arm in told)
        before = sum(share * told[arm][0] for arm, share in decision.starts.items() if arm in told)
        noise = first = second = noise_apart = 0.0
        for arm in arms:
            value, spread = told[arm]
            pi, b = starts.get(arm, 0.0), decision.starts.get(arm, 0.0)
            square = pi * pi / (b or 1.0)
            noise += square * spread
            first += square * value
            second += square * value * value
            if b > 0.0:
                noise_apart += b * ((pi / b - 1.0) ** 2 * spread + (value - before) ** 2)
        taken = told[started][0] if started in told else 0.0
        return Said(taken, other, before, noise, first, second, noise_apart)

    def _value(self, name: str, arm: str, decision: Decision) -> tuple[float, float]:
        """Mean and variance of what a run that starts at `arm` comes to."""
        estimate = decision.arms[arm]
        if name in COSTS:
            return self._of.cost(name, arm, estimate, int(decision.ask["prompt_tokens"]))
        p = self._of.reward(arm, estimate) if name == REWARD else self._of.ends_on(arm)[name]
        return p, p * (1.0 - p)

    def mended(self, decision: Decision, path: Path, name: str, logged: float) -> float:
        """What is known of the run up to where the ways part, and the model's word for the rest."""
        if path.how == "other" or np.isnan(logged):
            return logged
        kept = decision.rungs[: path.at + 1]
        last = kept[-1]
        estimate = decision.arms.get(last.arm)
        after = path.following
        ahead = None if after is None else decision.arms.get(after.arm)
        if name == REWARD:
            sure = 0.5 if estimate is None else self._of.reward_of(last, estimate)
            if estimate is None or ahead is None or estimate.p >= 1.0:
                return sure
            mends = min(1.0, max(0.0, (ahead.p - estimate.p) / (1.0 - estimate.p)))
            return sure + (1.0 - sure) * mends
        if name in COSTS:
            share = sum(rung.tokens for rung in kept) / max(1, sum(rung.tokens for rung in decision.rungs))
            more = 0.0
            if after is not None and ahead is not None:
                more, _ = self._of.cost(name, after.arm, ahead, int(decision.ask["prompt_tokens"]))
            return logged * share + more
        ends = last.tier if after is None else after.tier
        return float(name == ends)


def logged(decision: Decision, name: str) -> float:
    """NaN for what nobody knows."""
    if name == REWARD:
        known = decision.reward if decision.outcome == "answered" else None
        return float("nan") if known is None else known
    if name in COSTS:
        value = getattr(decision, name)
        return float("nan") if value is None else float(value)
    if decision.outcome != "answered" or not decision.rungs:
        return float("nan")
    return float(decision.rungs[-1].tier == name)
