"""One window of traffic against the reference: every test, corrected for their number, with its verdict.

A finding needs both: an effect that matters (the marks below) and a p-value, corrected for all tests of the
window, below ALPHA. Small windows have large effects by chance, large ones have tiny effects for certain.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from classifier.drift.outcomes import Calibration, TokenFit, calibration, token_fit
from classifier.drift.reference import RATIO, Counts, Reference, signal_names
from classifier.drift.shift import holm, psi, shift_p
from classifier.features import COUNT

Vector = NDArray[np.float64]
Verdict = Literal["too few", "ok", "watch", "drifted"]
Kind = Literal["input", "prediction", "tokens", "calibration"]

# A window cries wolf with at most this probability, whatever the number of its tests.
ALPHA = 0.01
MIN_ROWS = 50
MIN_LABELLED = 30


@dataclass(frozen=True, slots=True)
class Marks:
    """From which effect on a finding is to be watched, and from which on it is drift."""

    watch: float
    drifted: float


# Siddiqi's marks, as banks have used them for decades.
PSI_MARKS = Marks(0.10, 0.25)
# The yardstick of spent over predicted is of fits on fewer rows than the final one: with the marks above,
# one undrifted window in ten was to be watched.
RATIO_MARKS = Marks(0.25, 0.50)
# Points of probability: a policy that asks for 0.8 and gets 0.7 keeps no promise.
GAP_MARKS = Marks(0.05, 0.10)
# Share of answers above the predicted 95 % quantile, which should be 0.05.
ABOVE_MARKS = Marks(0.10, 0.20)


@dataclass(frozen=True, slots=True)
class Window:
    """What is known of a stretch of `rows` decisions.

    `counts` (signals, BINS) in the bins of the reference. `labelled`: by arm the predicted p and the reward
    of the decisions whose outcome is known; `spent`: by arm expected tokens, their 95 % quantile and what was
    spent.
    """

    rows: int
    counts: Counts
    labelled: Mapping[str, tuple[Vector, Vector]]
    spent: Mapping[str, tuple[Vector, Vector, Vector]]


@dataclass(frozen=True, slots=True)
class Finding:
    """One test: `effect` is a PSI, a gap in probability or a share, as `measure` says; `p` is corrected."""

    name: str
    kind: Kind
    measure: str
    effect: float
    p: float
    verdict: Verdict
    arm: str | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """A window's verdict is that of its worst finding; `findings` have the worst first."""

    rows: int
    verdict: Verdict
    findings: tuple[Finding, ...]
    psi: Mapping[str, float]
    calibrations: Mapping[str, Calibration]
    tokens: Mapping[str, TokenFit]


@dataclass(frozen=True, slots=True)
class _Test:
    name: str
    kind: Kind
    measure: str
    effect: float
    p: float
    marks: Marks
    arm: str | None = None


def look(reference: Reference, arms: tuple[str, ...], window: Window) -> Look:
    """Compare a window with the reference of a classifier with these arms."""
    names = signal_names(arms)
    counts = window.counts
    distance = psi(reference.counts, counts)
    learnt_from = dict(zip(arms, reference.counts[-len(arms) :].sum(axis=1).tolist(), strict=True))
    calibrations = {
        arm: calibration(p, rewards, learnt_from[arm])
        for arm, (p, rewards) in window.labelled.items()
        if p.size >= MIN_LABELLED
    }
    tokens = {arm: token_fit(*each) for arm, each in window.spent.items() if each[0].size >= MIN_LABELLED}
    enough = counts.sum(axis=1) >= MIN_ROWS
    chance = shift_p(reference.counts, counts)
    tests = [
        _Test(
            names[i],
            _kind(i, len(arms)),
            "PSI",
            float(distance[i]),
            float(chance[i]),
            RATIO_MARKS if names[i].startswith(RATIO) else PSI_MARKS,
            arm,
        )
        for i, arm in enumerate(_arm_of(arms))
        if enough[i]
    ]
    tests += _outcome_tests(calibrations, tokens)
    findings = _judged(tests)
    return Look(
        rows=window.rows,
        verdict=worst(each.verdict for each in findings) if findings else "too few",
        findings=findings,
        psi={name: float(d) for name, d, known in zip(names, distance, enough, strict=True) if known},
        calibrations=calibrations,
        tokens=tokens,
    )


ORDER: tuple[Verdict, ...] = ("too few", "ok", "watch", "drifted")


def worst(verdicts: Iterator[Verdict]) -> Verdict:
    """The last of them in the order too few, ok, watch, drifted."""
    return max(verdicts, key=ORDER.index, default="too few")


def _judged(tests: list[_Test]) -> tuple[Finding, ...]:
    if not tests:
        return ()
    adjusted = holm(np.array([test.p for test in tests]))
    found = [
        Finding(t.name, t.kind, t.measure, t.effect, float(p), _verdict(t, float(p)), t.arm)
        for t, p in zip(tests, adjusted, strict=True)
    ]
    return tuple(sorted(found, key=lambda f: (-ORDER.index(f.verdict), f.p, -abs(f.effect))))


def _verdict(test: _Test, adjusted: float) -> Verdict:
    if adjusted >= ALPHA or abs(test.effect) < test.marks.watch:
        return "ok"
    return "drifted" if abs(test.effect) >= test.marks.drifted else "watch"


def _outcome_tests(calibrations: Mapping[str, Calibration], tokens: Mapping[str, TokenFit]) -> list[_Test]:
    found = []
    for arm, c in calibrations.items():
        found.append(
            _Test(f"calibration {arm}", "calibration", "observed - predicted", c.gap, c.p_gap, GAP_MARKS, arm)
        )
        found.append(_Test(f"ECE {arm}", "calibration", "ECE above noise", c.excess, c.p_ece, GAP_MARKS, arm))
    for arm, t in tokens.items():
        found.append(
            _Test(
                f"tokens above {arm}",
                "tokens",
                "share above the 95 % quantile",
                t.above,
                t.p_above,
                ABOVE_MARKS,
                arm,
            )
        )
    return found


def _arm_of(arms: tuple[str, ...]) -> tuple[str | None, ...]:
    """The arm of each signal; None for features and ood."""
    return (*(None for _ in range(COUNT + 1)), *arms, *arms, *arms)


def _kind(signal: int, arms: int) -> Kind:
    """Inputs are features and ood; predictions p and tokens; what was spent over them is about tokens."""
    if signal <= COUNT:
        return "input"
    return "tokens" if signal >= COUNT + 1 + 2 * arms else "prediction"
