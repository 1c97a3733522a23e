"""What a log says about its arms: the model behind the doubly robust estimator, fitted as the log goes by.

Every figure is for a whole run that *starts* at an arm, with whatever rungs came after. Where a log is thin,
the classifier's own predictions stand.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from classifier.calibration import logit, sigmoid
from policies.arm_spec import TIERS
from policies.plan import ArmEstimate
from router.decisions.record import Decision, Rung

Vector = NDArray[np.float64]

COSTS = ("tokens", "charged_tokens", "cost_usd", "gpu_seconds")
_Slopes = tuple[float, float]
_RIDGE = 5.0  # decisions that the prior is worth
_STEPS = 25
_LEAST_P = 1e-4


@dataclass(slots=True)
class _Line:
    """Least squares of a cost on (completion tokens predicted, prompt tokens), by its normal equations."""

    aa: float = 0.0
    ab: float = 0.0
    bb: float = 0.0
    ay: float = 0.0
    by: float = 0.0
    yy: float = 0.0
    count: int = 0

    def add(self, a: float, b: float, y: float) -> None:
        self.aa += a * a
        self.ab += a * b
        self.bb += b * b
        self.ay += a * y
        self.by += b * y
        self.yy += y * y
        self.count += 1

    def solve(self, prior: _Slopes) -> _Slopes:
        """Drawn to the prior by the worth of a few mean rows."""
        if not self.count:
            return prior
        weight = _RIDGE / self.count
        pull_a, pull_b = weight * self.aa + 1e-9, weight * self.bb + 1e-9
        aa, bb = self.aa + pull_a, self.bb + pull_b
        ay, by = self.ay + pull_a * prior[0], self.by + pull_b * prior[1]
        whole = aa * bb - self.ab * self.ab
        return (ay * bb - by * self.ab) / whole, (by * aa - ay * self.ab) / whole

    def squares(self, slopes: _Slopes) -> tuple[float, float]:
        """Sums of squares of what the line says, and of what it misses."""
        a, b = slopes
        said = a * a * self.aa + 2.0 * a * b * self.ab + b * b * self.bb
        return said, max(0.0, self.yy - 2.0 * (a * self.ay + b * self.by) + said)


@dataclass(slots=True)
class _Scale:
    """Pairs of a stated probability and what came of it."""

    stated: array[float] = field(default_factory=lambda: array("d"))
    came: array[float] = field(default_factory=lambda: array("d"))

    def add(self, stated: float, came: float) -> None:
        self.stated.append(stated)
        self.came.append(came)

    def fit(self) -> tuple[float, float]:
        """Intercept and slope on the logit (Platt's), drawn to 0 and 1: the probability as it is."""
        weights = np.array([0.0, 1.0])
        if not self.stated:
            return 0.0, 1.0
        x = np.column_stack([np.ones(len(self.stated)), _logit(np.array(self.stated))])
        y = np.array(self.came)
        prior, penalty = weights.copy(), np.array([1.0, _RIDGE])
        for _ in range(_STEPS):
            p = sigmoid(x @ weights)
            slope = x.T @ (p - y) + penalty * (weights - prior)
            bend = (x * (p * (1.0 - p))[:, None]).T @ x + np.diag(penalty)
            step = np.linalg.solve(bend, slope)
            weights = weights - np.clip(step, -2.0, 2.0)
            if float(np.abs(step).max()) < 1e-8:
                break
        return float(weights[0]), max(0.0, float(weights[1]))


class LogModel:
    """Fed with every decision once, then fitted, then asked."""

    def __init__(self) -> None:
        self._costs: dict[tuple[str, str], _Line] = {}
        self._rewards: dict[str, _Scale] = {}
        self._confidences: dict[str, _Scale] = {}
        self._ends: dict[str, dict[str, int]] = {}
        self._tokens: dict[str, float] = {}
        self._paid: dict[str, float] = {}
        self.specs: dict[str, set[str]] = {}
        self._lines: dict[tuple[str, str], _Slopes] = {}
        self._misses: dict[tuple[str, str], float] = {}  # variance over the squared value, by cost and arm
        self._scales: dict[str, tuple[float, float]] = {}
        self._judges: dict[str, tuple[float, float]] = {}

    def add(self, decision: Decision) -> None:
        """Learn from a decision that was carried out; others say nothing."""
        for rung in decision.rungs:
            self.specs.setdefault(rung.arm, set()).add(rung.spec)
        if not decision.rungs or decision.rungs[0].arm not in decision.arms:
            return
        start, last = decision.rungs[0].arm, decision.rungs[-1]
        estimate = decision.arms[start]
        prompt = float(decision.ask.get("prompt_tokens", 0))
        for name in COSTS:
            value = getattr(decision, name)
            if value is None:
                continue
            self._costs.setdefault((name, start), _Line()).add(estimate.tokens, prompt, float(value))
            self._tokens[name] = self._tokens.get(name, 0.0) + decision.tokens
            self._paid[name] = self._paid.get(name, 0.0) + float(value)
        if decision.outcome != "answered":
            return
        ends = self._ends.setdefault(start, {})
        ends[last.tier] = ends.get(last.tier, 0) + 1
        if (came := decision.reward) is not None:
            self._rewards.setdefault(start, _Scale()).add(estimate.p, came)
            if last.confidence is not None:
                self._confidences.setdefault(last.arm, _Scale()).add(last.confidence, came)

    def fit(self) -> None:
        """Once, when the log has gone by."""
        self._scales = {arm: scale.fit() for arm, scale in self._rewards.items()}
        self._judges = {arm: scale.fit() for arm, scale in self._confidences.items()}
        arms = sorted({arm for _, arm in self._costs})
        for arm in arms:
            tokens = self._solved("tokens", arm, (1.0, 1.0))
            for name in COSTS[1:]:
                rate = self._rate(name)
                self._solved(name, arm, (tokens[0] * rate, tokens[1] * rate))
        for name in COSTS:
            sums = {arm: self._line(name, arm).squares(self._lines[name, arm]) for arm in arms}
            said, missed = (sum(each[k] for each in sums.values()) for k in (0, 1))
            overall = missed / said if said else 0.0
            for arm in arms:
                some = _RIDGE * sums[arm][0] / max(1, self._line(name, arm).count)
                all_said = sums[arm][0] + some
                self._misses[name, arm] = (sums[arm][1] + some * overall) / all_said if all_said else overall
            self._misses[name, ""] = overall

    def _solved(self, name: str, arm: str, prior: _Slopes) -> _Slopes:
        self._lines[name, arm] = self._line(name, arm).solve(prior)
        return self._lines[name, arm]

    def _line(self, name: str, arm: str) -> _Line:
        return self._costs.get((name, arm), _Line())

    def _rate(self, name: str) -> float:
        """Of this cost a token, over the whole log."""
        return self._paid.get(name, 0.0) / max(1.0, self._tokens.get(name, 0.0))

    # -- asked

    def knows(self, name: str) -> bool:
        """Whether the log tells this cost at all."""
        return name in self._tokens

    def cost(self, name: str, arm: str, estimate: ArmEstimate, prompt_tokens: int) -> tuple[float, float]:
        """What a run that starts at `arm` comes to, and the variance of that."""
        rate = 1.0 if name == "tokens" else self._rate(name)
        slopes = self._lines.get((name, arm), (rate, rate))
        value = max(0.0, slopes[0] * estimate.tokens + slopes[1] * prompt_tokens)
        missed = self._misses.get((name, arm), self._misses.get((name, ""), 0.0))
        return value, missed * value * value

    def reward(self, arm: str, estimate: ArmEstimate) -> float:
        """How likely a run that starts at `arm` ends with a right answer."""
        return _scaled(estimate.p, self._scales.get(arm, (0.0, 1.0)))

    def reward_of(self, rung: Rung, estimate: ArmEstimate) -> float:
        """How likely the answer of a rung is right, had it been given."""
        if rung.verified is not None:
            return float(rung.verified)
        if rung.confidence is None:
            return estimate.p
        return _scaled(rung.confidence, self._judges.get(rung.arm, (0.0, 1.0)))

    def ends_on(self, arm: str) -> Mapping[str, float]:
        """Tier -> share of the runs that start at `arm` whose answer comes from there."""
        ends = self._ends.get(arm, {})
        own = arm.partition("/")[0]
        total = sum(ends.values()) + 1.0
        return {tier: (ends.get(tier, 0) + (tier == own)) / total for tier in TIERS}


def _logit(p: Vector) -> Vector:
    return np.asarray(logit(np.clip(p, _LEAST_P, 1.0 - _LEAST_P)))


def _scaled(p: float, scale: tuple[float, float]) -> float:
    held = min(max(p, _LEAST_P), 1.0 - _LEAST_P)
    return 1.0 / (1.0 + math.exp(-(scale[0] + scale[1] * math.log(held / (1.0 - held)))))
