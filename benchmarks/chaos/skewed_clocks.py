"""Replicas whose clocks are an hour apart decide the same: only the store's time counts."""

from __future__ import annotations

import asyncio
import json
import sys

from benchmarks.chaos.replica import new_name
from benchmarks.chaos.report import Progress, Report
from benchmarks.chaos.servers import DURABLE, Start
from policies.store import connect

OFFSETS_S = (-3600, 0, 3600)


async def run(start: Start, progress: Progress) -> Report:
    """Each replica has a tenant of its own with the same budget: what they decide can be compared."""
    report = Report("replicas with clocks an hour behind, right and an hour ahead")
    server = start(*DURABLE)
    names = [new_name() for _ in OFFSETS_S]

    async def decisions(name: str, offset_s: int) -> list[object]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.chaos.skewed_replica", server.url, name, str(offset_s),
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        said, _ = await process.communicate()
        found: list[object] = json.loads(said)
        progress(f"clock {offset_s:+d} s: {len(found)} decisions")
        return found

    decided = await asyncio.gather(*map(decisions, names, OFFSETS_S))
    client = connect(server.url, command_timeout_s=10.0)
    edges = {key.rsplit(":", 1)[1] async for key in client.scan_iter(match="acr:*:budget:tenant:day:*")}
    await client.aclose()
    refused = sum(isinstance(decision, str) for decision in decided[0])
    report.check(all(one == decided[0] for one in decided), "all decided the same")
    report.check(0 < refused < len(decided[0]), f"{refused} of {len(decided[0])} found the budget spent")
    report.check(len(edges) == 1, "all charged the same day")
    return report
