"""Requests through a proxy that loses replies of the store after it has executed the command."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from contextlib import AsyncExitStack

from benchmarks.chaos.replica import Replica, ask, caller, new_name, policy, settled
from benchmarks.chaos.report import Progress, Report
from benchmarks.chaos.servers import DURABLE, Start
from router.errors import IdempotencyInFlight, StoreUnavailable
from router.http.once import OnceService, ticket
from router.request import Reply
from tests.fault_proxy import fault_proxy

CALLERS_A_REPLICA = 4
TRIES = 30


async def run(
    start: Start,
    progress: Progress,
    *,
    requests: int = 20_000,
    replicas: int = 24,
    rate: float = 0.05,
    seed: int = 1,
) -> Report:
    """Half of the requests carry an Idempotency-Key; all are tried again as an OpenAI client would."""
    report = Report(f"{requests} requests, {rate:.0%} of the store's replies lost after execution")
    server = start(*DURABLE)
    rules = policy(new_name())
    tenant = next(name for name in rules.tenants if name.endswith("deny"))
    numbers = iter(range(requests))
    receipts: dict[str, int] = {}
    counts = {"answered": 0, "tries": 0, "refused": 0}
    async with fault_proxy(server.port, seed) as proxy, AsyncExitStack() as stack:
        proxy.mute_share = 0.2
        fleet = [await stack.enter_async_context(Replica(proxy.url, rules)) for _ in range(replicas)]
        for replica in fleet:
            replica.engine.calls = deque()  # all of them are counted
        await proxy.set("drop", rate=rate)

        async def ask_all(replica: Replica, dice: random.Random) -> None:
            for number in numbers:
                reply = await _asked(replica, tenant, number, dice, counts)
                if reply is not None:
                    counts["answered"] += 1
                    receipts[reply.receipt.lease_id or ""] = reply.receipt.charged_tokens
                if number % 1000 == 999:
                    progress(f"{number + 1} of {requests}, {proxy.spoiled} replies lost")

        await asyncio.gather(
            *(
                ask_all(replica, random.Random(f"{seed} {i} {j}"))
                for i, replica in enumerate(fleet)
                for j in range(CALLERS_A_REPLICA)
            )
        )
        await proxy.set("pass")
        used = await settled(server.url, rules, tenant, within_s=60.0)
        told, generated = sum(receipts.values()), sum(replica.generated() for replica in fleet)
    report.check(used == told, f"ledger {used} = receipts {told}")
    report.check(used == generated, f"ledger = tokens of the engines {generated}")
    report.check(counts["answered"] + counts["refused"] == requests, "every request ended")
    report.check(counts["refused"] <= requests // 1000, f"{counts['refused']} requests given up")
    report.figures.append(
        f"{proxy.spoiled} of {proxy.replies} replies lost; {counts['tries'] / requests:.2f} tries a request"
    )
    return report


async def _asked(
    replica: Replica, tenant: str, number: int, dice: random.Random, counts: dict[str, int]
) -> Reply | None:
    """One request, until it is answered or `TRIES` are over."""
    request = ask(f"What is {number} + 1?", model=dice.choice(("auto", "direct", "consistency")))
    who = caller(tenant)
    use = ticket(who, b"key-%d" % number, repr(request).encode())
    once = OnceService(replica.pipeline, replica.idempotency, use) if number % 2 else None
    for attempt in range(TRIES):
        counts["tries"] += 1
        try:
            return await (once or replica.pipeline).complete(who, request)
        except (StoreUnavailable, IdempotencyInFlight):
            await asyncio.sleep(min(0.5, 0.02 * 2**attempt) * dice.uniform(0.5, 1.0))
    counts["refused"] += 1
    return None
