"""Replicas killed with leases in flight: the holds go with the lease, and what was told is charged."""

from __future__ import annotations

import asyncio
import sys
import time

from redis.asyncio import Redis

from benchmarks.chaos.busy_replica import AT_A_TIME, LEASE_TTL_S
from benchmarks.chaos.replica import counted, new_name, policy
from benchmarks.chaos.report import Progress, Report
from benchmarks.chaos.servers import DURABLE, Start
from policies.schema import Policy
from policies.store import connect

LATE_S = 1.0
RUNS_FOR_S = (0.3, 1.2, 2.2)  # before the first checkpoint, after it, after a renewal


async def run(start: Start, progress: Progress, *, kills: int = 20) -> Report:
    report = Report(f"{kills} replicas killed (SIGKILL) with {AT_A_TIME} leases in flight each")
    server = start(*DURABLE)
    name = new_name()
    rules = policy(name)
    tenant = f"{name}-deny"
    client = connect(server.url, command_timeout_s=10.0)
    held_for, exact, caught, leased = [], 0, 0, 0
    try:
        for number in range(kills):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "benchmarks.chaos.busy_replica", server.url, name,
                stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            try:
                assert process.stdout is not None
                await process.stdout.readline()
                async with asyncio.timeout(60):
                    while (await counted(server.url, rules, tenant))[1] == 0:  # noqa: ASYNC110
                        await asyncio.sleep(0.02)
                await asyncio.sleep(RUNS_FOR_S[number % len(RUNS_FOR_S)])
            finally:
                process.kill()
                await process.wait()
            killed_s = time.monotonic()
            leases, told = await _told(client, tenant)
            used, held = await counted(server.url, rules, tenant)
            caught += held > 0
            leased += leases
            held_for.append(await _freed_after(server.url, rules, tenant, killed_s))
            after, _ = await counted(server.url, rules, tenant)
            exact += after == used + told
            progress(f"{number + 1} of {kills} kills")
    finally:
        await client.aclose()
    bound_s = LEASE_TTL_S + LATE_S
    report.check(caught == kills, f"{caught} of {kills} kills met leases in flight ({leased})")
    report.check(max(held_for) <= bound_s, f"held 0 after {max(held_for):.1f} s (lease + 1 s: {bound_s:g})")
    report.check(exact == kills, f"{exact} times exactly the checkpoints were charged")
    return report


async def _told(client: Redis, tenant: str) -> tuple[int, int]:
    """The leases that are open, and the tokens that their checkpoints say."""
    leases = tokens = 0
    async for key in client.scan_iter(match=f"acr:{{{tenant}}}:lease:*", count=1000):
        state, checkpoint = await client.hmget(key, "state", "checkpoint")
        if state == "open":
            leases += 1
            tokens += int(str(checkpoint).split(",")[0])
    return leases, tokens


async def _freed_after(url: str, rules: Policy, tenant: str, since_s: float) -> float:
    """Seconds until nothing was held, or a minute."""
    while time.monotonic() - since_s < 60:
        if (await counted(url, rules, tenant))[1] == 0:
            break
        await asyncio.sleep(0.02)
    return time.monotonic() - since_s
