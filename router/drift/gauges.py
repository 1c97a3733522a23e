"""Where a replica's figures of decisions and drift go: Ray's metrics in a cluster, a mapping in tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

PSI = "acr_drift_psi"
ROWS = "acr_drift_window_rows"
OOD = "acr_ood_mean"
CALIBRATION, NOISE, GAP = "acr_calibration_error", "acr_calibration_noise", "acr_calibration_gap"
TOKENS, ABOVE = "acr_token_error", "acr_tokens_above_high"
LABELLED = "acr_decisions_labelled_total"
REFUSED = "acr_classifier_refused_total"
LOGGED, DROPPED = "acr_decisions_logged_total", "acr_decisions_dropped_total"

# Name -> what it is, and its label. Features and arms are those of the classifier: no label is a caller's.
GAUGES: Mapping[str, tuple[str, str | None]] = {
    PSI: ("PSI of a signal against training, less noise; 0.25 is drift", "feature"),
    ROWS: ("decisions in the rolling window", None),
    OOD: ("mean out-of-distribution score of the rolling window", None),
    CALIBRATION: ("expected calibration error of an arm's newest outcomes", "arm"),
    NOISE: ("what a perfect prediction would show on so few outcomes", "arm"),
    GAP: ("observed less predicted success of an arm's newest outcomes", "arm"),
    TOKENS: ("spent over predicted completion tokens of an arm, less 1", "arm"),
    ABOVE: ("share of an arm's answers above their predicted 95 % quantile; 0.05 is right", "arm"),
}
COUNTERS: Mapping[str, str] = {
    LABELLED: "decisions whose outcome came to be known in this replica",
    REFUSED: "published classifiers that this replica did not take; its log says why",
    LOGGED: "decisions written to the decision log",
    DROPPED: "decisions lost to it: its store was slow or away, or the replica ended",
}


class Gauges(Protocol):
    """Keeps the last value of each gauge and label, and sums of counters. Must not raise or wait."""

    def set(self, name: str, value: float, label: str | None = None) -> None: ...
    def add(self, name: str, count: int) -> None: ...


class MemoryGauges:
    """In this process: by name, or name and label."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, str | None], float] = {}
        self.counts: dict[str, int] = {}

    def set(self, name: str, value: float, label: str | None = None) -> None:
        self.values[name, label] = value

    def add(self, name: str, count: int) -> None:
        self.counts[name] = self.counts.get(name, 0) + count
