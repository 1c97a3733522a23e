"""One replica's rolling view of drift, for dashboards. The report from the exported log is the whole truth:
feedback that reaches another replica, or comes late, is not counted here."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable

import numpy as np

from classifier.artifact import Artifact
from classifier.calibration import ece
from classifier.drift.outcomes import BINS, quick_floor, token_fit
from classifier.drift.reference import signal_names
from classifier.drift.shift import psi
from classifier.drift.tally import Outcomes, Tally
from router.decisions.record import Decision
from router.drift import gauges as named
from router.drift.gauges import Gauges
from router.drift.seen import awaits_feedback, seen_of

# The window is the newest 750 to 1,000 decisions, in panes that are dropped whole.
PANES, PANE_ROWS = 4, 250
OUTCOMES = 500  # an arm
REMEMBERED = 2_000  # decisions that feedback may still come for
EVERY_S = 15.0
MIN_ROWS, MIN_OUTCOMES = 50, 30


class DriftWatch:
    """Takes decisions as they end and sets gauges at most every `every_s` seconds. Memory is bounded."""

    def __init__(
        self,
        artifact: Artifact,
        gauges: Gauges,
        *,
        every_s: float = EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._gauges = gauges
        self._every_s = every_s
        self._clock = clock
        self._told_s = clock()
        self.follow(artifact)

    def follow(self, artifact: Artifact) -> None:
        """Another classifier decides from now on: all windows begin again, with its reference."""
        self._artifact = artifact
        self._names = signal_names(artifact.arms)
        self._outcomes = Outcomes(OUTCOMES)
        self._ood: deque[float] = deque(maxlen=PANES * PANE_ROWS)
        self._waiting: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._panes: deque[Tally] = deque(maxlen=PANES)
        self._begin()

    def add(self, decision: Decision) -> None:
        """Count a decision; those of another classifier, and those without a prediction, tell nothing."""
        if self._artifact.weights.reference is None or decision.classifier_version != self._artifact.version:
            return
        seen = seen_of(decision)
        if seen is None:
            return
        if self._panes[-1].rows >= PANE_ROWS:
            self._begin()
        self._panes[-1].add(seen)
        self._ood.append(seen.ood)
        if seen.arm is not None and seen.reward is not None:
            self._gauges.add(named.LABELLED, 1)
        elif seen.arm is not None and awaits_feedback(decision):
            self._waiting[decision.decision_id] = (seen.arm, seen.arms[seen.arm][0])
            if len(self._waiting) > REMEMBERED:
                self._waiting.popitem(last=False)
        if self._clock() - self._told_s >= self._every_s:
            self.tell()

    def feedback(self, decision_id: str, score: float) -> None:
        """A caller's score in [0, 1]; counted if the decision is remembered here, and once."""
        found = self._waiting.pop(decision_id, None)
        if found is not None:
            self._outcomes.label(*found, score)
            self._gauges.add(named.LABELLED, 1)

    def tell(self) -> None:
        """Set every gauge that enough is known for. About a millisecond."""
        self._told_s = self._clock()
        reference = self._artifact.weights.reference
        if reference is None:
            return
        counts = np.sum([pane.counts() for pane in self._panes], axis=0)
        self._gauges.set(named.ROWS, float(len(self._ood)))
        if self._ood:
            self._gauges.set(named.OOD, float(np.mean(self._ood)))
        known = counts.sum(axis=1) >= MIN_ROWS
        for name, value, enough in zip(self._names, psi(reference.counts, counts), known, strict=True):
            if enough:
                self._gauges.set(named.PSI, float(value), name)
        self._tell_outcomes()

    def _tell_outcomes(self) -> None:
        for arm, (p, rewards) in self._outcomes.labelled().items():
            if p.size >= MIN_OUTCOMES:
                self._gauges.set(named.CALIBRATION, ece(p, rewards, BINS), arm)
                self._gauges.set(named.NOISE, quick_floor(p), arm)
                self._gauges.set(named.GAP, float(rewards.mean() - p.mean()), arm)
        for arm, (expected, high, spent) in self._outcomes.spent().items():
            if spent.size >= MIN_OUTCOMES:
                fit = token_fit(expected, high, spent)
                self._gauges.set(named.TOKENS, fit.ratio - 1.0, arm)
                self._gauges.set(named.ABOVE, fit.above, arm)

    def _begin(self) -> None:
        reference = self._artifact.weights.reference
        if reference is not None:
            self._panes.append(Tally(reference, self._artifact.arms, self._outcomes))
