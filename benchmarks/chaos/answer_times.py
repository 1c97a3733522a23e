"""How long callers wait while the store refuses or is frozen, and how soon all is well after it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from benchmarks.chaos.replica import Replica, ask, caller, new_name, policy, settled
from benchmarks.chaos.report import Progress, Report
from benchmarks.chaos.servers import DURABLE, Start
from router.errors import StoreUnavailable
from tests.fault_proxy import fault_proxy

REQUESTS = 200
TYPICAL_MS = 50.0  # an idle machine needs 1 to 3; a timeout is 500
RECOVERED_S = 2.0


async def run(start: Start, progress: Progress) -> Report:
    report = Report("the store refused, then frozen (SIGSTOP): one caller, one request after another")
    server = start(*DURABLE)
    rules = policy(new_name())
    deny, degrade, _ = rules.tenants
    charged = 0
    async with fault_proxy(server.port) as proxy, Replica(proxy.url, rules) as replica:

        async def timed(tenant: str) -> tuple[float, int]:
            began = time.perf_counter()
            tokens = 0
            try:
                reply = await replica.pipeline.complete(caller(tenant), ask("What is 3 + 4?"))
                tokens = reply.receipt.charged_tokens if tenant == degrade else 0
            except StoreUnavailable:
                pass
            return (time.perf_counter() - began) * 1000.0, tokens

        async def refuse() -> None:
            await proxy.set("refuse")

        async def listen() -> None:
            await proxy.set("pass")

        for name, begin, end in (
            ("refused", refuse, listen),
            ("frozen", _soon(server.freeze), _soon(server.resume)),
        ):
            for tenant in (deny, degrade):
                charged += (await timed(tenant))[1]
            await begin()
            first = [await timed(deny) for _ in range(4)]
            for tenant, what in ((deny, "503"), (degrade, "degraded answer")):
                found = [await timed(tenant) for _ in range(REQUESTS)]
                charged += sum(tokens for _, tokens in found)
                times = sorted(ms for ms, _ in found)
                half, most = times[len(times) // 2], times[int(len(times) * 0.99)]
                said = f"{name}: {what} in {half:.2f} ms (p50), {most:.1f} ms (p99)"
                report.check(half <= TYPICAL_MS, said)
            report.figures.append(f"{name}: the slowest before the breaker opened {max(first)[0]:.0f} ms")
            await end()
            back_s = time.monotonic()
            while not await _serves(replica, deny):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            recovered_s = time.monotonic() - back_s
            report.check(recovered_s <= RECOVERED_S, f"{name}: all well {recovered_s:.2f} s after its end")
            progress(f"{name} done")
        used = await _reaches(lambda: settled(server.url, rules, degrade), charged)
    report.check(used == charged, f"degraded answers charged afterwards: {used} of {charged} tokens")
    return report


def _soon(act: Callable[[], None]) -> Callable[[], asyncio.Future[None]]:
    return lambda: asyncio.ensure_future(asyncio.to_thread(act))


async def _serves(replica: Replica, tenant: str) -> bool:
    try:
        await replica.pipeline.complete(caller(tenant), ask("What is 3 + 4?"))
    except StoreUnavailable:
        return False
    return True


async def _reaches(look: Callable[[], Awaitable[int]], wanted: int) -> int:
    """The number that `look` finds, at the latest after 20 s, at once where it is the wanted one."""
    ends_s = time.monotonic() + 20.0
    while True:
        found = await look()
        if found == wanted or time.monotonic() > ends_s:
            return found
        await asyncio.sleep(0.1)
