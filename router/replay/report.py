"""What a replay found: plain data with stable names, and the tables that people read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from classifier.artifact import finite
from classifier.evaluation.grids import Grid
from policies.arm_spec import TIERS
from policies.schema import Policy
from router.replay.bootstrap import LEVEL, Interval, interval
from router.replay.estimators import on_policy
from router.replay.log import LogReplay
from router.replay.recording import Recording
from router.replay.rows import REWARD
from router.replay.study import ESTIMATORS, Figure, LogStudy
from router.replay.table import TableReplay

_DIGITS = {"tokens": 1, "charged_tokens": 1, "cost_usd": 6, "gpu_seconds": 3}
_SAID = {
    "charged_tokens": "charged",
    "completion_tokens": "completion",
    "cost_usd": "USD",
    "gpu_seconds": "GPU-s",
}


def log_plain(policy: Policy, replayed: LogReplay, study: LogStudy) -> dict[str, Any]:
    """Everything of a log's replay, for JSON."""
    counts, seen = replayed.counts, study.weights
    figures = {name: _figure(each) for name, each in study.figures.items()}
    return finite({  # type: ignore[no-any-return]
        "kind": "log",
        "policy": policy.name,
        "policy_version": policy.version,
        "supported": study.supported,
        "verdict": study.verdict,
        "notes": study.notes,
        "level": LEVEL,
        "decisions": {
            "read": counts.read,
            "replayed": len(replayed.rows),
            "rewarded": counts.rewards,
            "from_cache": counts.from_cache,
            "unplanned": counts.unplanned,
            "without_propensities": counts.without_propensities,
            "other_tenants": counts.other_tenants,
            "unknown_tenants": dict(counts.unknown_tenants),
            "policies": dict(counts.policies),
        },
        "support": {
            "effective_sample_size": seen.effective,
            "rewarded_effective_sample_size": seen.rewarded,
            "decisions": seen.decisions,
            "mean_weight": seen.mean,
            "largest_weight": seen.largest,
            "explored_share": seen.explored,
            "lacking_share": seen.lacking,
            "mended_share": seen.mended,
            "unknown_arms": list(replayed.unknown_arms),
            "arms": {each.arm: _without_arm(asdict(each)) for each in replayed.support},
        },
        "estimates": {name: each for name, each in figures.items() if name not in TIERS},
        "tiers": {name: each for name, each in figures.items() if name in TIERS},
        "refusals": {
            **{name: asdict(getattr(study.rates["refusals"], name)) for name in _RATED},
            "by_reason": dict(counts.refusals),
            "logged_by_code": dict(counts.codes),
        },
        "degradations": {name: asdict(getattr(study.rates["degradations"], name)) for name in _RATED},
    })  # fmt: skip


_RATED = ("logged", "planned", "difference")


def _figure(figure: Figure) -> dict[str, Any]:
    return asdict(figure) | {"why_not": figure.why_not or None}


def _without_arm(plain: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in plain.items() if name != "arm"}


def log_grids(replayed: LogReplay, study: LogStudy) -> list[Grid]:
    """Estimates, what planning tells, and support by arm."""
    rows = []
    for name, figure in study.figures.items():
        cells = [_told(getattr(figure, each), name) for each in ("logged", *ESTIMATORS, "difference")]
        if figure.why_not:
            cells = [cells[0], figure.why_not, "-", "-", "-"]
        if name not in TIERS or (replayed.rows.measures[name].logged > 0).any() or figure.dr.value > 0:
            rows.append((_SAID.get(name, name), *cells))
    rated = [
        (
            name,
            *(
                f"{each.value:.1%}"
                for each in (rate.logged, rate.planned, rate.difference)
            ),
        )
        for name, rate in study.rates.items()
    ]  # fmt: skip
    arms = [
        (
            each.arm,
            f"{each.wanted:,.0f}",
            f"{each.logged:,}",
            f"{each.lacking:,.0f}" if each.lacking else "-",
            "other parameters" if each.other_spec else "" if each.predicted else "not predicted",
        )
        for each in replayed.support
    ]
    return [
        Grid(
            "Estimates a request, with 90 % intervals (tiers: share of answers)",
            ("measure", "log", "IPS", "SNIPS", "DR", "DR - log"),
            tuple(rows),
        ),
        Grid("Share of requests, by planning alone", ("", "log", "policy", "difference"), tuple(rated)),
        Grid("Starts", ("arm", "policy", "log", "beyond the log", ""), tuple(arms)),
    ]


def _told(found: Interval, name: str) -> str:
    if found.value != found.value:
        return "-"
    digits = _DIGITS.get(name, 3)
    return f"{found.value:,.{digits}f} [{found.low:,.{digits}f}, {found.high:,.{digits}f}]"


# -- outcome tables


def table_plain(
    policy: Policy, tenant: str, recorded: Recording, replayed: TableReplay, note: str, seed: int
) -> dict[str, Any]:
    """Everything of a table's replay, for JSON; intervals are of prompts like these."""
    outcomes, count = replayed.outcomes, max(1, len(replayed.outcomes))
    refusals: dict[str, int] = {}
    for each in outcomes:
        if each.refusal is not None:
            refusals[each.refusal] = refusals.get(each.refusal, 0) + 1
    columns: Mapping[str, list[float]] = {
        REWARD: [each.score for each in outcomes],
        "completion_tokens": [float(each.completion_tokens) for each in outcomes],
        "charged_tokens": [float(each.charged_tokens) for each in outcomes],
        "cost_usd": [each.cost_usd for each in outcomes],
        "gpu_seconds": [each.gpu_seconds for each in outcomes],
    }
    notes = [note]
    if recorded.unknown:
        notes.append(f"The table has no outcomes of {', '.join(recorded.unknown)}: planned without.")
    if recorded.left_out:
        notes.append(f"The policy has no arm {', '.join(recorded.left_out)}: left out.")
    stood, dry = replayed.share_of(lambda o: o.stood), replayed.share_of(lambda o: o.ran_dry)
    if stood:
        notes.append(f"{stood:.0%} of the answers stand as recorded: their samples are not in the table.")
    if dry:
        notes.append(f"{dry:.0%} of the runs would have drawn more samples than were recorded.")
    return finite({  # type: ignore[no-any-return]
        "kind": "table",
        "policy": policy.name,
        "policy_version": policy.version,
        "tenant": tenant,
        "supported": True,
        "notes": notes,
        "level": LEVEL,
        "prompts": len(outcomes),
        "estimates": {
            name: asdict(interval(on_policy(np.array(values)), seed=seed)) for name, values in columns.items()
        },
        "tiers": {
            tier: sum(arms for arm, arms in replayed.answered_by().items() if policy.arms[arm].tier == tier)
            / count
            for tier in TIERS
        },
        "arms": {arm: number / count for arm, number in sorted(replayed.answered_by().items())},
        "refusals": {"share": sum(refusals.values()) / count, "by_reason": refusals},
        "degraded_share": replayed.share_of(lambda o: o.degraded),
        "hopeless_share": replayed.share_of(lambda o: o.hopeless),
    })  # fmt: skip


def table_grids(plain: Mapping[str, Any]) -> list[Grid]:
    """The measures, and who answered."""
    rows = []
    for name, found in plain["estimates"].items():
        value = Interval(*(float("nan") if each is None else each for each in found.values()))
        rows.append((_SAID.get(name, name), _told(value, "tokens" if "tokens" in name else name)))
    shares = [(arm, f"{share:.1%}") for arm, share in plain["arms"].items()]
    shares.append(("refused", f"{plain['refusals']['share']:.1%}"))
    return [
        Grid("Mean over the prompts, with 90 % intervals", ("measure", "policy"), tuple(rows)),
        Grid("Answers by arm", ("arm", "share"), tuple(shares)),
    ]
