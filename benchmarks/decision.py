"""What a decision costs in process: features, prediction, plan, record; p50 and p99 over prompt sizes.

The record is made and queued on the request's way; its line of JSON, a batch at a time, off it.
"""

from __future__ import annotations

import itertools
import random
import time
from dataclasses import asdict
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Column, Table

import policies
from backends.engines.base import Message
from classifier.predictor import Predictor
from classifier.tables import read_table
from policies.loader import load_policy
from policies.plan import ArmEstimate, Ask
from policies.planner import make_plan
from router.decisions.files import to_line
from router.decisions.noting import Notes
from router.planning import ask_of
from router.request import Caller, RouteRequest

console = Console()
CALLER = Caller("demo", "k1")
PROMPTS = Path(__file__).parent / "data/smollm2_135m.jsonl"


def main(runs: int = 2000, cpu: bool = False) -> None:
    """Time the predictor and the planner of the shipped artifact and policy.

    `--cpu` counts the thread's own processor time, on a machine where others work too.
    """
    now_s = time.thread_time if cpu else time.perf_counter
    predictor = Predictor.load()
    prompts = [item.messages[-1]["content"] for item in read_table(PROMPTS).items]
    policy = load_policy(Path(policies.__file__).parent / "default.yaml")
    tenant = policy.tenants["demo"]
    tiers = frozenset(tenant.tiers)
    names = ("predict p50", "p99", "plan p50", "p99", "record p50", "p99", "line p50", "p99")
    columns = [Column(name, justify="right") for name in names]
    table = Table("letters", *columns, title="milliseconds")
    for characters in (80, 400, 4000, 40_000):
        predict_s, plan_s, record_s, line_s = [], [], [], []
        texts = _texts(prompts, characters)
        for number in range(runs if characters < 10_000 else runs // 10):
            text = texts[number % len(texts)]
            request = RouteRequest("r", "auto", (Message("user", text),))
            began = now_s()
            prediction = predictor.predict([{"role": "user", "content": text}])
            middle = now_s()
            estimates = {
                arm: ArmEstimate(prediction.p[arm], prediction.tokens[arm], prediction.tokens_high[arm])
                for arm in policy.arms
                if arm in prediction.p
            }
            ask = Ask(prompt_tokens=characters // 3)
            plan = make_plan(ask, tenant, policy, estimates, remaining_tokens=None, available_tiers=tiers)
            planned = now_s()
            notes = Notes("dec-0", 0, CALLER, request)
            notes.prediction, notes.plan = prediction, plan
            record = notes.record({"outcome": "answered"}, policy, asdict(ask_of(request, 0)), None)
            noted = now_s()
            to_line(record)
            line_s.append(now_s() - noted)
            record_s.append(noted - planned)
            plan_s.append(planned - middle)
            predict_s.append(middle - began)
        measured = (_percentiles(seconds) for seconds in (predict_s, plan_s, record_s, line_s))
        table.add_row(f"{characters:,}", *itertools.chain(*measured))
    console.print(table)


def _texts(prompts: list[str], characters: int, count: int = 40) -> list[str]:
    """Texts of that length out of recorded prompts: as many different words as people use."""
    drawn = random.Random(0)
    return [" ".join(drawn.choices(prompts, k=1 + characters // 20))[:characters] for _ in range(count)]


def _percentiles(seconds: list[float]) -> tuple[str, str]:
    ordered = sorted(seconds)
    return tuple(f"{ordered[int(len(ordered) * share)] * 1000:.2f}" for share in (0.5, 0.99))  # type: ignore[return-value]


if __name__ == "__main__":
    typer.run(main)
