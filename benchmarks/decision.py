"""What a decision costs in process: features, prediction, plan, record; p50 and p99 over prompt sizes.

The record is made and queued on the request's way; its line of JSON, a batch at a time, off it.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import asdict
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Column, Table

import policies
from backends.engines.base import Message
from classifier.predictor import Predictor
from policies.loader import load_policy
from policies.plan import ArmEstimate, Ask
from policies.planner import make_plan
from router.decisions.files import to_line
from router.decisions.noting import Notes
from router.planning import ask_of
from router.request import Caller, RouteRequest

console = Console()
CALLER = Caller("demo", "k1")
SENTENCE = "A train leaves at 9:40 and travels 120 km in 95 minutes; how fast is it, in km/h? "


def main(runs: int = 2000) -> None:
    """Time the predictor and the planner of the shipped artifact and policy."""
    predictor = Predictor.load()
    policy = load_policy(Path(policies.__file__).parent / "default.yaml")
    tenant = policy.tenants["demo"]
    tiers = frozenset(tenant.tiers)
    names = ("predict p50", "p99", "plan p50", "p99", "record p50", "p99", "line p50", "p99")
    columns = [Column(name, justify="right") for name in names]
    table = Table("letters", *columns, title="milliseconds")
    for characters in (80, 400, 4000, 40_000):
        predict_s, plan_s, record_s, line_s = [], [], [], []
        for number in range(runs if characters < 10_000 else runs // 10):
            text = (f"{number} " + SENTENCE * (characters // len(SENTENCE) + 1))[:characters]
            request = RouteRequest("r", "auto", (Message("user", text),))
            began = time.perf_counter()
            prediction = predictor.predict([{"role": "user", "content": text}])
            middle = time.perf_counter()
            estimates = {
                arm: ArmEstimate(prediction.p[arm], prediction.tokens[arm], prediction.tokens_high[arm])
                for arm in policy.arms
                if arm in prediction.p
            }
            ask = Ask(prompt_tokens=characters // 3)
            plan = make_plan(ask, tenant, policy, estimates, remaining_tokens=None, available_tiers=tiers)
            planned = time.perf_counter()
            notes = Notes("dec-0", 0, CALLER, request)
            notes.prediction, notes.plan = prediction, plan
            record = notes.record({"outcome": "answered"}, policy, asdict(ask_of(request, 0)), None)
            noted = time.perf_counter()
            to_line(record)
            line_s.append(time.perf_counter() - noted)
            record_s.append(noted - planned)
            plan_s.append(planned - middle)
            predict_s.append(middle - began)
        measured = (_percentiles(seconds) for seconds in (predict_s, plan_s, record_s, line_s))
        table.add_row(f"{characters:,}", *itertools.chain(*measured))
    console.print(table)


def _percentiles(seconds: list[float]) -> tuple[str, str]:
    ordered = sorted(seconds)
    return tuple(f"{ordered[int(len(ordered) * share)] * 1000:.2f}" for share in (0.5, 0.99))  # type: ignore[return-value]


if __name__ == "__main__":
    typer.run(main)
