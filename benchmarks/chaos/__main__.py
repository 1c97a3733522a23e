"""All runs, against every server that is here: one table, exit status 1 where an invariant broke."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import logging
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.chaos import answer_times, dropped_replies, killed_replicas, killed_stores, skewed_clocks
from benchmarks.chaos.report import Progress, Report
from benchmarks.chaos.servers import Start, binaries, servers

console = Console() if sys.stdout.isatty() else Console(width=120)

Run = Callable[[Start, Progress], Awaitable[Report]]
OTHERS = ("benchmarks.chaos.policies",)
GET_REDIS = "for a Redis 7 as well: `apt-get install redis-server`, or ACR_TEST_SERVER=/path/to/redis-server"


def main(
    requests: int = 20_000, replica_kills: int = 20, store_kills: int = 5, server: str | None = None
) -> None:
    """Break things on purpose and count afterwards; about 6 minutes for each server (valkey, redis)."""
    logging.disable(logging.ERROR)  # the breakers' lines are what is provoked here
    runs: list[Run] = [
        partial(dropped_replies.run, requests=requests),
        partial(killed_replicas.run, kills=replica_kills),
        partial(killed_stores.run, kills=store_kills, fsync="always"),
        partial(killed_stores.run, kills=store_kills, fsync="everysec"),
        skewed_clocks.run,
        answer_times.run,
    ]
    found = binaries()
    if "redis" not in found:
        console.print(f"no redis-server here, so the embedded Valkey alone; {GET_REDIS}")
    reports: list[Report] = []
    for name, binary in found.items():
        for run in runs if server in (None, name) else []:
            reports.append(_made(run, name, binary))
            console.print(_line(reports[-1]))
    console.print(_table(reports))
    others = [_other(name) for name in OTHERS if importlib.util.find_spec(name) is not None]
    sys.exit(0 if all(report.well for report in reports) and all(others) else 1)


def _made(run: Run, server: str, binary: str) -> Report:
    began = time.monotonic()
    with console.status(server) as status, servers(binary) as start:

        def progress(said: str) -> None:
            status.update(f"{server}: {said}")
            if not console.is_terminal:
                console.print(f"  {server}: {said}")

        report = asyncio.run(_run(run, start, progress))
    report.server, report.seconds = server, time.monotonic() - began
    return report


async def _run(run: Run, start: Start, progress: Progress) -> Report:
    return await run(start, progress)


def _other(name: str) -> bool:
    """A module with a `main() -> int` of its own."""
    console.print(f"{name}:")
    status: int = importlib.import_module(name).main()
    return status == 0


def _line(report: Report) -> str:
    broken = "".join(f"\n  BROKEN: {said}" for holds, said in report.checks if not holds)
    return f"{report.server}: {report.name} ({report.seconds:.0f} s){broken}"


def _table(reports: list[Report]) -> Table:
    table = Table("server", "what was done", "what was found", "holds", "s", title="chaos", show_lines=True)
    for report in reports:
        said = [*(f"{'' if holds else 'BROKEN: '}{text}" for holds, text in report.checks), *report.figures]
        table.add_row(
            report.server,
            report.name,
            "\n".join(said),
            "yes" if report.well else "[bold red]NO[/]",
            f"{report.seconds:.0f}",
        )
    return table


if __name__ == "__main__":
    typer.run(main)
