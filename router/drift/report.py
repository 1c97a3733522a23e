"""A log's drift as words, tables and plain data, and what to do about it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from classifier.artifact import finite
from classifier.drift.look import ALPHA, Finding
from classifier.evaluation.grids import Grid, figure
from router.drift.windows import Past, day

_SHOWN = 12
_ADVICE = {
    "calibration": (
        "predictions do not hold any more: record new outcomes of these arms (`acr record`), then "
        "`acr calibrate` if the order of the arms is still right, else `acr train`; promote it if it "
        "beats the live one on the held-out part"
    ),
    "tokens": (
        "answers have another length than predicted: look whether engine, arm or limits changed, then record "
        "and train again; until then budgets hold too much or too little"
    ),
    "prediction": (
        "the classifier expects other things of this traffic than of what it was trained on: see that enough "
        "outcomes are known (checks, feedback) to say whether it is right"
    ),
    "input": (
        "requests are not those it was trained on: record outcomes of prompts like them (`acr record`) and "
        "train again"
    ),
}


def found_now(past: Past) -> tuple[Finding, ...]:
    """What the newest judged window is to be watched for, or has drifted in; the worst first."""
    return tuple(each for each in past.newest.look.findings if each.verdict in ("watch", "drifted"))


def advice(past: Past) -> list[str]:
    """What to do next, one line a kind of finding."""
    kinds = {each.kind for each in found_now(past)}
    lines = [text for kind, text in _ADVICE.items() if kind in kinds]
    if not past.newest.look.calibrations:
        lines.append(
            "no arm has 30 known outcomes in the newest window: whether predictions hold is not known; ask "
            "for checks (`compute.verify`) or feedback (`POST /v1/feedback`)"
        )
    return lines


def notes(past: Past) -> list[str]:
    """What was left out, and what a reader should know besides."""
    lines = [f"{rows:,} rows {why} were left out" for why, rows in past.left_out.items()]
    if past.unusable_labels:
        lines.append(
            f"{past.unusable_labels:,} outcomes belong to plans that climb by confidence: they do not tell "
            "what the first arm's answer was worth, and are left out of calibration"
        )
    lines += [
        f"the arm {arm} ran with {count} different settings: a change of an arm looks like drift"
        for arm, count in past.specs.items()
    ]
    return lines


def windows_grid(past: Past) -> Grid:
    """One row a window."""
    rows = []
    for each in past.windows:
        bad = [f for f in each.look.findings if f.verdict in ("watch", "drifted")]
        labelled = sum(c.rows for c in each.look.calibrations.values())
        named = ", ".join(f.name for f in bad[:3]) + (f" and {len(bad) - 3} more" if len(bad) > 3 else "")
        most = max(each.look.psi.values(), default=None)
        rows.append(
            (day(each.from_ms), f"{each.look.rows:,}", f"{labelled:,}", each.look.verdict, figure(most, 2),
             named or "-")
        )  # fmt: skip
    return Grid("Windows (UTC)", ("from", "rows", "outcomes", "verdict", "worst PSI", "what"), tuple(rows))


def findings_grid(past: Past) -> Grid:
    """What the newest judged window shows, and since when."""
    rows = tuple(
        (
            each.name,
            each.verdict,
            each.measure,
            f"{each.effect:+.2f}",
            f"{each.p:.1g}",
            day(past.since_ms[each.name]),
        )
        for each in found_now(past)[:_SHOWN]
    )
    columns = ("what", "verdict", "measure", "effect", "p", "since (UTC)")
    more = len(found_now(past)) - len(rows)
    about = f"p is corrected for all tests of the window; below {ALPHA} counts." + (
        f" {more} more are in the JSON." if more else ""
    )
    return Grid("What drifted in the newest window", columns, rows, about)


def arms_grid(past: Past) -> Grid:
    """Calibration and tokens of each arm in the newest judged window."""
    look = past.newest.look
    rows = []
    for arm in sorted({*look.calibrations, *look.tokens}):
        c, t = look.calibrations.get(arm), look.tokens.get(arm)
        ratio = "-" if c is None else f"{c.ratio:.2f} [{c.low:.2f}, {c.high:.2f}]"
        rows.append(
            (
                arm,
                "-" if c is None else f"{c.rows:,}",
                ratio,
                figure(c.ece if c else None),
                figure(c.floor if c else None),
                figure(c.brier if c else None),
                figure(t.ratio if t else None, 2),
                "-" if t is None else f"{t.above:.0%}",
            )
        )
    columns = ("arm", "outcomes", "obs. / pred.", "ECE", "noise", "Brier", "tokens / pred.",
               "above high")  # fmt: skip
    return Grid(
        "Arms in the newest window",
        columns,
        tuple(rows),
        "Brackets: 95 % interval. > high: answers above the predicted 95 % quantile; 5 % is right.",
    )


def as_plain(past: Past) -> dict[str, Any]:
    """Everything, for JSON."""
    return finite({  # type: ignore[no-any-return]
        "classifier_version": past.version,
        "verdict": past.newest.look.verdict,
        "left_out": past.left_out,
        "labelled": past.labelled,
        "unusable_labels": past.unusable_labels,
        "settings_of_arms": past.specs,
        "now": [
            {**asdict(each), "since": day(past.since_ms[each.name])} for each in found_now(past)
        ],
        "advice": advice(past),
        "windows": [
            {
                "from": day(each.from_ms),
                "to": day(each.to_ms),
                "rows": each.look.rows,
                "verdict": each.look.verdict,
                "psi": dict(each.look.psi),
                "calibration": {a: {**asdict(c), "gap": c.gap} for a, c in each.look.calibrations.items()},
                "tokens": {arm: asdict(t) for arm, t in each.look.tokens.items()},
                "findings": [asdict(f) for f in each.look.findings if f.verdict in ("watch", "drifted")],
            }
            for each in past.windows
        ],
    })  # fmt: skip
