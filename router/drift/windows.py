"""A log cut into windows of time or of so many decisions, each looked at against the reference."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from classifier.artifact import Artifact
from classifier.drift.look import MIN_ROWS, Finding, Look, look
from classifier.drift.tally import Tally
from router.decisions.record import Decision
from router.drift.errors import DriftError
from router.drift.seen import first_reward, seen_of

_UNITS_MS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_MOST_WINDOWS = 1_000


@dataclass(frozen=True, slots=True)
class Cut:
    """Windows of `ms` milliseconds, from midnight UTC on, or of `rows` decisions."""

    ms: int | None = None
    rows: int | None = None

    @classmethod
    def parse(cls, text: str) -> Cut:
        """`1d`, `6h`, `30m`, `1w` or `500`. Raises DriftError."""
        found = re.fullmatch(r"([1-9][0-9]{0,6})([mhdw]?)", text.strip())
        if found is None:
            raise DriftError(
                f"--window {text!r} is neither a time (30m, 6h, 1d, 1w) nor a number of decisions"
            )
        number, unit = int(found[1]), found[2]
        return cls(ms=number * _UNITS_MS[unit]) if unit else cls(rows=number)


@dataclass(frozen=True, slots=True)
class Stretch:
    """One window: when its first and last decision were made, and what it looks like."""

    from_ms: int
    to_ms: int
    look: Look


@dataclass(frozen=True, slots=True)
class Past:
    """All windows, the oldest first; what was left out and why; `specs`: arms that ran with several settings.

    `since_ms` says of each finding that the newest judged window calls watch or drifted when that began.
    """

    version: str
    windows: tuple[Stretch, ...]
    left_out: dict[str, int]
    labelled: int
    unusable_labels: int
    specs: dict[str, int]
    since_ms: dict[str, int]

    @property
    def newest(self) -> Stretch:
        """The last window with enough decisions to judge; there is one."""
        return next(each for each in reversed(self.windows) if each.look.verdict != "too few")


@dataclass(slots=True)
class _Open:
    tally: Tally
    from_ms: int
    to_ms: int


@dataclass(slots=True)
class _Counts:
    left_out: Counter[str] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    labelled: int = 0
    unusable: int = 0
    specs: dict[str, set[str]] = field(default_factory=dict)


def past(decisions: Iterable[Decision], artifact: Artifact, cut: Cut, tenant: str | None = None) -> Past:
    """Go through a log once; memory grows with windows and outcomes, not with decisions.

    Raises DriftError where nothing can be told: no reference, no row of this classifier, too
    few rows in every window, too many windows.
    """
    reference, arms = artifact.weights.reference, artifact.arms
    if reference is None:
        raise DriftError(
            f"the classifier {artifact.version} has no drift reference: it is from before there was one; "
            "train it again with `acr train`"
        )
    counts, opened = _Counts(), dict[int, _Open]()
    used = 0
    for decision in decisions:
        if tenant is not None and decision.tenant != tenant:
            counts.left_out["of other tenants"] += 1
            continue
        seen = seen_of(decision)
        if not decision.arms:
            counts.left_out["without a prediction (cache hits, refusals)"] += 1
            continue
        counts.versions[decision.classifier_version or "unnamed"] += 1
        if decision.classifier_version != artifact.version:
            counts.left_out["of another classifier"] += 1
            continue
        if seen is None:
            counts.left_out["without features"] += 1
            continue
        at = decision.at_ms // cut.ms if cut.ms else used // (cut.rows or 1)
        used += 1
        window = opened.get(at)
        if window is None:
            if len(opened) >= _MOST_WINDOWS:
                raise DriftError(
                    f"that is more than {_MOST_WINDOWS} windows; choose longer ones with --window"
                )
            window = opened[at] = _Open(Tally(reference, arms), decision.at_ms, decision.at_ms)
        window.tally.add(seen)
        window.from_ms, window.to_ms = min(window.from_ms, decision.at_ms), max(window.to_ms, decision.at_ms)
        _count(counts, decision)
    if not opened:
        raise DriftError(_nothing(counts, artifact.version, tenant))
    windows = tuple(
        Stretch(each.from_ms, each.to_ms, look(reference, arms, each.tally.window()))
        for _, each in sorted(opened.items())
    )
    if all(each.look.verdict == "too few" for each in windows):
        raise DriftError(
            f"no window has enough to judge: the largest has {max(each.look.rows for each in windows):,} "
            f"decisions, {MIN_ROWS} are needed; export a longer stretch or choose a longer --window"
        )
    return Past(
        version=artifact.version,
        windows=windows,
        left_out=dict(counts.left_out),
        labelled=counts.labelled,
        unusable_labels=counts.unusable,
        specs={arm: len(specs) for arm, specs in sorted(counts.specs.items()) if len(specs) > 1},
        since_ms=_since(windows),
    )


def _count(counts: _Counts, decision: Decision) -> None:
    reward = first_reward(decision)
    counts.labelled += reward is not None
    counts.unusable += reward is None and decision.reward is not None
    for rung in decision.rungs:
        counts.specs.setdefault(rung.arm, set()).add(rung.spec)


def _since(windows: tuple[Stretch, ...]) -> dict[str, int]:
    """Of each finding of the newest judged window: where its unbroken run of windows began."""
    judged = [each for each in windows if each.look.verdict != "too few"]
    since: dict[str, int] = {}
    running = set(_bad(judged[-1]))
    for stretch in reversed(judged):
        running &= set(_bad(stretch))
        since.update(dict.fromkeys(running, stretch.from_ms))
    return since


def _bad(stretch: Stretch) -> dict[str, Finding]:
    return {each.name: each for each in stretch.look.findings if each.verdict in ("watch", "drifted")}


def _nothing(counts: _Counts, version: str, tenant: str | None) -> str:
    if counts.versions:
        named = ", ".join(f"{name} ({rows:,} rows)" for name, rows in counts.versions.most_common(3))
        return (
            f"no row was decided by the classifier {version}, but by {named}; "
            "name that one's directory with --classifier"
        )
    if tenant is not None and counts.left_out.get("of other tenants"):
        return f"the log has no predicted decision of the tenant {tenant!r}; look at the names it has"
    return "the log has no decision with a prediction in it; export a longer stretch"


def day(at_ms: int) -> str:
    """A moment in UTC, to the minute."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
