"""What a decision costs in process: features, prediction, plan. p50 and p99 over prompts of several sizes."""

from __future__ import annotations

import time
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Column, Table

import policies
from classifier.predictor import Predictor
from policies.loader import load_policy
from policies.plan import ArmEstimate, Ask
from policies.planner import make_plan

console = Console()
SENTENCE = "A train leaves at 9:40 and travels 120 km in 95 minutes; how fast is it, in km/h? "


def main(runs: int = 2000) -> None:
    """Time the predictor and the planner of the shipped artifact and policy."""
    predictor = Predictor.load()
    policy = load_policy(Path(policies.__file__).parent / "default.yaml")
    tenant = policy.tenants["demo"]
    tiers = frozenset(tenant.tiers)
    columns = [Column(name, justify="right") for name in ("predict p50", "p99", "plan p50", "p99")]
    table = Table("prompt", *columns, title="milliseconds")
    for characters in (80, 400, 4000, 40_000):
        predict_s, plan_s = [], []
        for number in range(runs if characters < 10_000 else runs // 10):
            text = (f"{number} " + SENTENCE * (characters // len(SENTENCE) + 1))[:characters]
            began = time.perf_counter()
            prediction = predictor.predict([{"role": "user", "content": text}])
            middle = time.perf_counter()
            estimates = {
                arm: ArmEstimate(prediction.p[arm], prediction.tokens[arm], prediction.tokens_high[arm])
                for arm in policy.arms
                if arm in prediction.p
            }
            ask = Ask(prompt_tokens=characters // 3)
            make_plan(ask, tenant, policy, estimates, remaining_tokens=None, available_tiers=tiers)
            predict_s.append(middle - began)
            plan_s.append(time.perf_counter() - middle)
        table.add_row(f"{characters:,} characters", *_percentiles(predict_s), *_percentiles(plan_s))
    console.print(table)


def _percentiles(seconds: list[float]) -> tuple[str, str]:
    ordered = sorted(seconds)
    return tuple(f"{ordered[int(len(ordered) * share)] * 1000:.2f}" for share in (0.5, 0.99))  # type: ignore[return-value]


if __name__ == "__main__":
    typer.run(main)
