"""The store is killed in the middle of traffic and started again: no charge is lost or made twice.

With `appendfsync always` that is exact. With `everysec` the server puts writes off while the disk is busy
with the last ones: then a kill loses what it had acknowledged meanwhile. How much that was is told; nothing
is doubled.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from contextlib import AsyncExitStack

from benchmarks.chaos.replica import Replica, ask, caller, new_name, policy, settled
from benchmarks.chaos.report import Progress, Report
from benchmarks.chaos.servers import DURABLE, Start
from router.errors import StoreUnavailable

CALLERS_A_REPLICA = 4
UP_S, DOWN_S = 1.0, 0.7
PAUSE_S = 0.02
RECOVERED_S = 2.0


async def run(
    start: Start, progress: Progress, *, kills: int = 5, replicas: int = 3, fsync: str = "always"
) -> Report:
    """Half of the callers belong to a tenant that is denied meanwhile, half to one that is degraded."""
    report = Report(f"the store killed (SIGKILL) {kills} times in traffic, AOF fsync {fsync}")
    server = start(*DURABLE, "--appendfsync", fsync)
    rules = policy(new_name())
    tenants = [name for name in rules.tenants if not name.endswith("allow")]
    charged = dict.fromkeys(tenants, 0)
    recovered: list[float] = []
    degraded = 0
    numbers = itertools.count()
    async with AsyncExitStack() as stack:
        fleet = [await stack.enter_async_context(Replica(server.url, rules)) for _ in range(replicas)]
        over = asyncio.Event()
        for replica in fleet:
            replica.engine.calls = deque()

        async def ask_on(replica: Replica, tenant: str) -> None:
            nonlocal degraded
            for number in numbers:
                if over.is_set():
                    return
                try:
                    reply = await replica.pipeline.complete(caller(tenant), ask(f"What is {number}?"))
                    charged[tenant] += reply.receipt.charged_tokens
                    degraded += reply.receipt.degraded
                except StoreUnavailable:
                    await asyncio.sleep(PAUSE_S)
                await asyncio.sleep(PAUSE_S)

        traffic = [
            asyncio.create_task(ask_on(replica, tenant))
            for replica in fleet
            for tenant in tenants
            for _ in range(CALLERS_A_REPLICA)
        ]
        for number in range(kills):
            await asyncio.sleep(UP_S)
            server.kill()
            await asyncio.sleep(DOWN_S)
            await asyncio.to_thread(server.start)
            back_s = time.monotonic()
            while _any_open(fleet):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            recovered.append(time.monotonic() - back_s)
            progress(f"{number + 1} of {kills} kills")
        await asyncio.sleep(UP_S)
        over.set()
        await asyncio.gather(*traffic)
        used = {tenant: await settled(server.url, rules, tenant, 30.0) for tenant in tenants}
        for _ in range(100):  # what was spent meanwhile may still be on its way
            if used == charged:
                break
            await asyncio.sleep(0.1)
            used = {tenant: await settled(server.url, rules, tenant, 30.0) for tenant in tenants}
        generated = sum(replica.generated() for replica in fleet)
    counted, told = sum(used.values()), sum(charged.values())
    report.check(told == generated, f"receipts {told} = tokens of the engines {generated}")
    if fsync == "always":
        report.check(used == charged, f"ledger {counted} = receipts, for each tenant")
    else:
        report.check(all(used[name] <= charged[name] for name in used), f"ledger {counted}: nothing twice")
        report.figures.append(f"lost with the store: {told - counted} of {told} tokens")
    report.check(max(recovered) <= RECOVERED_S, f"all serve {max(recovered):.2f} s after the store")
    report.check(degraded > 0, f"{degraded} requests were degraded meanwhile")
    return report


def _any_open(fleet: list[Replica]) -> bool:
    return any(replica.breaker is not None and replica.breaker.open for replica in fleet)
