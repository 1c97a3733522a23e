"""What the ledger's operations cost, beside the cheapest write that the same client can make."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from statistics import quantiles

from policies.amounts import Amount
from policies.batches import Batches
from policies.ledger import Ledger, Scopes, new_lease_id

SCOPES: Scopes = [
    ("organisation", {"month": {"tokens": 2**50, "micro_usd": 2**50}}),
    ("tenant:a", {"minute": {"tokens": 2**50}, "day": {"tokens": 2**50}, "month": {}}),
    ("key:a:k", {"day": {"tokens": 2**50}}),
]
TENANT: Scopes = [("tenant", {"minute": {"tokens": 2**50}, "day": {"tokens": 2**50}, "month": {}})]
AMOUNT, USED = Amount(300, 40, 2000), Amount(120, 13, 700)


@dataclass(frozen=True, slots=True)
class Speed:
    """p50 and p99 of a lone caller (milliseconds), and operations a second of 256 callers."""

    name: str
    p50_ms: float
    p99_ms: float
    per_second: float


async def speeds(ledger: Ledger, batches: Batches, *, lone: int = 2000, crowd: int = 20_000) -> list[Speed]:
    """INCR and reserve + settle, in turns on one client. A pair counts as two operations."""

    async def incr() -> None:
        await batches.execute("INCR", "acr:bench:incr")

    def pair(scopes: Scopes) -> Callable[[], Awaitable[None]]:
        async def call() -> None:
            lease_id = new_lease_id("bench")
            await ledger.reserve(lease_id, "bench", scopes, AMOUNT, 60.0)
            await ledger.settle(lease_id, USED)

        return call

    return [
        await _speed("INCR", incr, 1, lone, crowd),
        await _speed("reserve + settle, 1 scope, 3 windows", pair(TENANT), 2, lone, crowd // 4),
        await _speed("reserve + settle, 3 scopes, 5 windows", pair(SCOPES), 2, lone, crowd // 4),
    ]


async def _speed(
    name: str, call: Callable[[], Awaitable[None]], operations: int, lone: int, crowd: int
) -> Speed:
    times_ms = []
    for _ in range(lone):
        began = time.perf_counter()
        await call()
        times_ms.append((time.perf_counter() - began) * 1000)
    numbers = iter(range(crowd))

    async def caller() -> None:
        for _ in numbers:
            await call()

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(256)))
    cuts = quantiles(times_ms, n=100)
    return Speed(name, cuts[49], cuts[98], operations * crowd / (time.perf_counter() - began))
