"""What the router adds to a bare Ray Serve application, both in one Serve, on the fake engine.

bare no-op: an ingress that answers. bare hop: an ingress that awaits one call to a second deployment.
ours, miss: authentication, limits, cache lookup, classification, planning, lease, tier, settlement.
ours, hit: authentication, limits, cache. Rounds take turns, so that a noisy machine disturbs all alike;
medians are reported, and what the rounds ranged over.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import platform
from collections import defaultdict
from pathlib import Path
from statistics import median

import typer
from rich.console import Console
from rich.table import Column, Table

from benchmarks.load import Load, Target, run_load
from router.config import DecisionLogConfig
from router.local import LocalStack, local_stack
from router.profiles import fake_config

POLICY = Path(__file__).with_name("overhead.yaml")
console = Console()


def main(rounds: int = 7, round_s: float = 4.0, clients: int = 8, decision_log: bool = True) -> None:
    """Measure, print the table, and say what was aimed at."""
    settings = DecisionLogConfig(enabled=decision_log)
    config = fake_config().model_copy(update={"policy": str(POLICY), "decision_log": settings})
    with local_stack(config, port=0, say=lambda said: console.print(f"  {said}")) as stack:
        _deploy_bare()
        loads = asyncio.run(_measure(_targets(stack), rounds, round_s, clients))
    _report(loads, rounds, round_s, clients)


def _deploy_bare() -> None:
    from ray import serve

    from benchmarks.bare_app import bare_app

    serve.run(bare_app(), name="bare", route_prefix="/bare")


def _targets(stack: LocalStack) -> tuple[Target, ...]:
    key = {"authorization": f"Bearer {stack.keys['demo']}"}
    count = itertools.count()

    def ask(text: str) -> bytes:
        return json.dumps(
            {
                "model": "auto",
                "messages": [{"role": "user", "content": text}],
                "temperature": 0,
                "max_completion_tokens": 64,
            }
        ).encode()

    same = ask("What is the capital of France?")
    ours = f"{stack.base_url}/v1/chat/completions"
    return (
        Target("bare no-op", f"{stack.base_url}/bare/noop", {}, lambda: b"{}"),
        Target("ours, hit", ours, key, lambda: same),
        Target("bare hop", f"{stack.base_url}/bare/hop", {}, lambda: b"{}"),
        Target("ours, miss", ours, key, lambda: ask(f"What is {next(count)} + 4, step by step please?")),
    )


async def _measure(
    targets: tuple[Target, ...], rounds: int, round_s: float, clients: int
) -> dict[tuple[str, int], list[Load]]:
    loads: dict[tuple[str, int], list[Load]] = defaultdict(list)
    for target in targets:  # warm up: connections, code paths, the cache
        await run_load(target, clients=clients, duration_s=1.0)
    for number in range(rounds):
        console.print(f"  round {number + 1} of {rounds}")
        for concurrent in (clients, 1):
            for target in targets:
                load = await run_load(target, clients=concurrent, duration_s=round_s)
                loads[target.name, concurrent].append(load)
    return loads


def _report(loads: dict[tuple[str, int], list[Load]], rounds: int, round_s: float, clients: int) -> None:
    table = Table(
        "",
        *(
            Column(name, justify="right")
            for name in (f"req/s, {clients} clients", "range", "p50 ms, 1 client", "range")
        ),
    )
    for name in dict.fromkeys(name for name, _ in loads):
        rates = [load.requests_per_s for load in loads[name, clients]]
        p50s = [load.p50_ms for load in loads[name, 1]]
        table.add_row(
            name,
            f"{median(rates):.0f}",
            f"{min(rates):.0f}-{max(rates):.0f}",
            f"{median(p50s):.2f}",
            f"{min(p50s):.2f}-{max(p50s):.2f}",
        )
    console.print(table)

    def ratio(ours: str, bare: str) -> float:
        pairs = zip(loads[ours, clients], loads[bare, clients], strict=True)
        return median(o.requests_per_s / b.requests_per_s for o, b in pairs)

    added = median(
        o.p50_ms - b.p50_ms for o, b in zip(loads["ours, miss", 1], loads["bare hop", 1], strict=True)
    )
    console.print(f"miss / bare hop    {ratio('ours, miss', 'bare hop'):.2f}   (aim 0.50)")
    console.print(f"hit / bare no-op   {ratio('ours, hit', 'bare no-op'):.2f}   (aim 0.50)")
    console.print(f"added p50, a miss  {added:.2f} ms   (aim 3 ms)")
    console.print(
        f"{rounds} rounds of {round_s:g} s each; {platform.processor() or platform.machine()}, "
        f"{os.cpu_count()} cores, Python {platform.python_version()}"
    )


if __name__ == "__main__":
    typer.run(main)
