"""A day of requests on a clock of its own, with and without pacing. Pure: the planner, a budget, no engine.

The budget is half, all and twice of what the day would cost without one. A request is planned as the router
plans it, and charged what its rungs are predicted to take; a rung's evidence is weak as often as its arm is
predicted to fail. `make bench-pacing` prints the table and draws docs/pacing.png.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Column, Table

import policies
from policies.conditions import Conditions
from policies.errors import BudgetExhausted
from policies.limit_spec import Pacing
from policies.loader import load_policy
from policies.pacing import DAY_S, EVEN, pace
from policies.plan import ArmEstimate, Ask
from policies.planner import make_plan
from policies.schema import Policy, TenantPolicy

POLICY = load_policy(Path(policies.__file__).parent / "default.yaml")
REQUESTS = 3_000
PROMPT_TOKENS = 120
LOOKED_UP_EVERY_S = 1.0  # as a replica does

# p and tokens of an arm: easy questions, some that votes help with, and hard ones.
KINDS: Sequence[tuple[float, Mapping[str, ArmEstimate]]] = (
    (
        0.5,
        {
            "direct/direct": ArmEstimate(0.86, 60, 150),
            "direct/cot": ArmEstimate(0.90, 180, 400),
            "consistency/sc4": ArmEstimate(0.93, 500, 1_100),
        },
    ),
    (
        0.3,
        {
            "direct/direct": ArmEstimate(0.60, 60, 150),
            "direct/cot": ArmEstimate(0.72, 180, 400),
            "consistency/sc4": ArmEstimate(0.85, 500, 1_100),
            "consistency/sc16": ArmEstimate(0.89, 1_600, 4_000),
        },
    ),
    (
        0.2,
        {
            "direct/direct": ArmEstimate(0.25, 60, 150),
            "direct/cot": ArmEstimate(0.40, 180, 400),
            "consistency/sc4": ArmEstimate(0.50, 600, 1_100),
            "consistency/sc16": ArmEstimate(0.60, 2_400, 6_000),
            "search/beam": ArmEstimate(0.66, 2_600, 5_000),
        },
    ),
)


@dataclass(frozen=True, slots=True)
class Day:
    """What a day came to. `success` is the mean of p over all requests, 0 for a refused one.

    `dry_s` is when the first request was refused; `left` the budget's share that is left, hour by hour.
    """

    spent: float
    budget: float
    refused: int
    success: float
    dry_s: float | None
    left: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request: when it comes, which kind of question it is, and how its rungs' evidence will fall out."""

    at_s: float
    kind: int
    luck: tuple[float, ...]


def steady(count: int, seed: int) -> list[Arrival]:
    """Requests that come at any time of the day alike."""
    rng = random.Random(seed)
    return _arrivals(rng, [rng.uniform(0, DAY_S) for _ in range(count)])


def bursty(count: int, seed: int) -> list[Arrival]:
    """Half of the requests around noon, a quarter in three bursts of two minutes, the rest at any time."""
    rng = random.Random(seed)
    times = [min(max(rng.gauss(DAY_S / 2, 5_400), 0), DAY_S - 1) for _ in range(count // 2)]
    bursts = [rng.uniform(0.1, 0.9) * DAY_S for _ in range(3)]
    times += [rng.choice(bursts) + rng.uniform(0, 120) for _ in range(count // 4)]
    times += [rng.uniform(0, DAY_S) for _ in range(count - len(times))]
    return _arrivals(rng, times)


def _arrivals(rng: random.Random, times: list[float]) -> list[Arrival]:
    kinds = rng.choices(range(len(KINDS)), [share for share, _ in KINDS], k=len(times))
    return [
        Arrival(at_s, kind, (rng.random(), rng.random(), rng.random()))
        for at_s, kind in zip(sorted(times), kinds, strict=True)
    ]


def simulate(
    arrivals: Sequence[Arrival],
    budget: float,
    rule: Pacing | None,
    *,
    policy: Policy = POLICY,
    tenant: TenantPolicy | None = None,
) -> Day:
    """One day. `budget` is inf for none; without a `rule` the cost weight stays as the policy has it."""
    tenant = tenant or _tenant()
    used, refused, success, dry_s = 0.0, 0, 0.0, None
    looked_s, now = -math.inf, Conditions()
    left = [1.0]
    for arrival in arrivals:
        while len(left) <= arrival.at_s // 3600:
            left.append(1.0 - used / budget)
        if rule is not None and arrival.at_s - looked_s >= LOOKED_UP_EVERY_S:
            looked_s = arrival.at_s
            now = Conditions(pace=pace(rule, used / budget, arrival.at_s / DAY_S))
        estimates = KINDS[arrival.kind][1]
        try:
            plan = make_plan(
                Ask(prompt_tokens=PROMPT_TOKENS, max_completion_tokens=512),
                tenant,
                policy,
                estimates,
                remaining_tokens=None if budget == math.inf else max(0, int(budget - used)),
                available_tiers=frozenset(tenant.tiers),
                now=now if rule is not None else Conditions(pace=EVEN),
            )
        except BudgetExhausted:
            refused += 1
            dry_s = arrival.at_s if dry_s is None else dry_s
            continue
        p = 0.0
        for step, luck in zip(plan.steps, arrival.luck, strict=False):
            used += min(step.expected_tokens, step.budget_tokens, budget - used)
            p = max(p, step.p)
            if luck < step.p:  # the evidence is strong: nothing further is tried
                break
        success += p
    left += [1.0 - used / budget] * (25 - len(left))
    return Day(used, budget, refused, success / len(arrivals), dry_s, tuple(left))


def _tenant() -> TenantPolicy:
    """The shipped demo tenant without budgets: the simulation keeps count itself."""
    demo = POLICY.tenants["demo"].model_dump(exclude={"budgets", "name"})
    return TenantPolicy.model_validate({**demo, "name": "demo"})


def main(plot: Path = Path("docs/pacing.png"), seed: int = 1) -> None:
    """Print the table and draw the plot."""
    console = Console()
    columns = [
        Column(name, justify="right") for name in ("left", "refused", "first at", "mean p", "of answered")
    ]
    table = Table("traffic", "budget", "pacing", *columns, title=f"a day of {REQUESTS:,} requests")
    drawn: dict[str, dict[str, Day]] = {}
    for name, arrivals in (("steady", steady(REQUESTS, seed)), ("bursty", bursty(REQUESTS, seed))):
        greedy = simulate(arrivals, math.inf, None)
        table.add_row(name, "none", "off", "", "0", "", *_success(greedy, REQUESTS))
        drawn[name] = {}
        for times in (0.5, 1.0, 2.0):
            for said, rule in (("off", None), ("on", Pacing())):
                day = simulate(arrivals, times * greedy.spent, rule)
                drawn[name][f"{times:g} x, pacing {said}"] = day
                dry = "" if day.dry_s is None else f"{day.dry_s / 3600:.1f} h"
                row = (f"{1 - day.spent / day.budget:.1%}", f"{day.refused}", dry)
                table.add_row(name, f"{times:g} x", said, *row, *_success(day, REQUESTS))
    console.print(table)
    _draw(drawn, plot)


def _success(day: Day, count: int) -> tuple[str, str]:
    return f"{day.success:.3f}", f"{day.success * count / max(1, count - day.refused):.3f}"


def _draw(days: Mapping[str, Mapping[str, Day]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(days), figsize=(10, 3.8), sharey=True)
    styles: Mapping[str, Any] = {"off": {"linestyle": "--"}, "on": {"linestyle": "-"}}
    colours = {"0.5 x": "#c0392b", "1 x": "#2471a3", "2 x": "#7f8c8d"}
    for axis, (name, rows) in zip(axes, days.items(), strict=True):
        for said, day in rows.items():
            times, _, pacing = said.partition(", pacing ")
            axis.plot(range(len(day.left)), day.left, color=colours[times], label=said, **styles[pacing])
        axis.plot([0, 24], [1, 0], color="#bbbbbb", linewidth=0.8)
        axis.set(title=f"{name} traffic", xlabel="hour", xlim=(0, 24), ylim=(0, 1), xticks=range(0, 25, 4))
    axes[0].set_ylabel("share of the day's budget left")
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    typer.run(main)
