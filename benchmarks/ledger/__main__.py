"""The ledger under load, on stores that this starts itself. Ends with 1 if an invariant broke."""

from __future__ import annotations

import asyncio
import sys

import typer
from redis.asyncio import Redis
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import Progress as Bar
from rich.table import Column, Table

from benchmarks.ledger.invariants import Crowd, Findings
from benchmarks.ledger.server import binaries, running
from benchmarks.ledger.speed import Speed, speeds
from policies.batches import Batches
from policies.ledger import RedisLedger
from policies.store import connect

REPLICAS = 4
console = Console(width=120)


def main(reserves: int = 100_000, concurrency: int = 256, three_scopes: int = 10_000) -> None:
    """Overshoot, partial holds and sums on every store that is there, and what an operation costs."""
    broken: list[str] = []
    for name, binary in binaries().items():
        with running(binary) as url:
            broken += asyncio.run(_measure(name, url, reserves, concurrency, three_scopes))
    for problem in broken:
        console.print(f"[red]broken:[/] {problem}")
    sys.exit(1 if broken else 0)


async def _measure(name: str, url: str, reserves: int, concurrency: int, three_scopes: int) -> list[str]:
    clients = [connect(url, command_timeout_s=30.0, pool_timeout_s=60.0) for _ in range(REPLICAS)]
    version = await _version(clients[0])
    batches = [Batches(client) for client in clients]
    ledgers = [RedisLedger(c, batches=b) for c, b in zip(clients, batches, strict=True)]
    runs: list[tuple[str, Findings]] = []
    with Bar(console=console, transient=True) as bar:
        for title, count in (("overshoot", reserves), ("three scopes", three_scopes)):
            task = bar.add_task(f"{name}: {title}", total=count)
            crowd = Crowd(ledgers, count, concurrency)
            found = await crowd.run(lambda done, task=task: bar.update(task, completed=done))  # type: ignore[misc]
            runs.append((title, found))
    console.print(_invariants(f"{name} {version}, {concurrency} at a time, {REPLICAS} clients", runs))
    console.print(_speeds(await speeds(ledgers[0], batches[0])))
    for client in clients:
        await client.aclose()
    return [f"{name}, {title}: {problem}" for title, found in runs for problem in found.broken]


async def _version(client: Redis) -> str:
    info = await client.info("server")
    return str(info.get("valkey_version") or info["redis_version"])


def _invariants(title: str, runs: list[tuple[str, Findings]]) -> Table:
    names = ("reserves", "granted", "denied", "repeated", "cancelled", "snapshots", "overshoot", "partial")
    table = Table(
        Column("run", no_wrap=True),
        *(Column(name, justify="right") for name in names),
        "sums",
        title=title,
        box=SIMPLE,
    )
    for name, found in runs:
        numbers = (
            found.reserves,
            found.granted,
            found.denied,
            found.duplicates,
            found.cancelled,
            found.snapshots,
            found.overshoot,
            found.partial,
        )
        table.add_row(name, *(f"{number:,}" for number in numbers), "broken" if found.broken else "exact")
    return table


def _speeds(rows: list[Speed]) -> Table:
    names = ("p50 ms", "p99 ms", "operations/s", "of INCR")
    table = Table(
        Column("one client", no_wrap=True), *(Column(name, justify="right") for name in names), box=SIMPLE
    )
    for row in rows:
        share = row.per_second / rows[0].per_second
        table.add_row(
            row.name, f"{row.p50_ms:.2f}", f"{row.p99_ms:.2f}", f"{row.per_second:,.0f}", f"{share:.0%}"
        )
    return table


if __name__ == "__main__":
    typer.run(main)
