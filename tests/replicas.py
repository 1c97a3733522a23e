"""Ingress replicas in one process: each its own pipeline, one real cache store, and a gate before the tiers.

As a program it is such a replica that leads a flight until it is killed:
`python -m tests.replicas REDIS_URL PREFIX` prints "leads" once its run has begun.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncGenerator
from typing import Any

from redis.asyncio import Redis

from backends.engines.fake import FakeEngine
from backends.hardware import CPU, SMOLLM2_135M
from backends.runner import TierRunner
from backends.task import TierEvent, TierResult, TierTask
from policies.store import connect
from router.cache import RedisCache
from router.cache_store import CacheStore
from router.leases import RedisLeases
from router.shared_flight import Rhythm, SharedFlights
from router.tiers import InProcessTiers
from tests.service import ACME, EASY, POLICY, SECRET, TestService, request
from tests.tasks import says

# What is asked everywhere; no test's answer depends on how long a loaded machine takes.
QUESTION: dict[str, Any] = {"temperature": 0}
STORE_TIMEOUT_S = 5.0


class Gate(InProcessTiers):
    """Tiers that begin when `open` is set; counts the runs, those that ended before it included."""

    def __init__(self, engine: FakeEngine, *, open_: bool = False) -> None:
        super().__init__({"direct": TierRunner(engine, tier="direct", hardware=CPU, shape=SMOLLM2_135M)})
        self.runs = 0
        self.began = asyncio.Event()
        self.open = asyncio.Event()
        self.failure: Exception | None = None
        if open_:
            self.open.set()

    async def _pass(self) -> None:
        self.runs += 1
        self.began.set()
        await self.open.wait()
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure

    async def run(self, tier: str, task: TierTask) -> TierResult:
        await self._pass()
        return await super().run(tier, task)

    async def stream(self, tier: str, task: TierTask) -> AsyncGenerator[TierEvent, None]:
        await self._pass()
        async for event in super().stream(tier, task):
            yield event


class Replica:
    """One ingress replica: `service.pipeline`, its `gate`, and its own client of the store."""

    def __init__(self, url: str, prefix: str, rhythm: Rhythm, timeout_s: float) -> None:
        self.client: Redis = connect(url, command_timeout_s=timeout_s, decode_responses=False)
        self.store = CacheStore(self.client, timeout_s=timeout_s)
        self.cache = RedisCache(self.store, SECRET, prefix=f"{prefix}answer:")
        self.flights = SharedFlights(RedisLeases(self.store, prefix=f"{prefix}flight:"), rhythm)
        self.engine = says("Answer: 7")

    async def start(self, policy: str = POLICY, **parts: Any) -> Replica:
        if "semantic" in parts:
            parts["semantic"] = parts["semantic"](self)
        await self.engine.start()
        self.gate = Gate(self.engine)
        self.service = TestService(
            self.engine, EASY, policy, tiers=self.gate, cache=self.cache, flights=self.flights, **parts
        )
        self.pipeline = self.service.pipeline
        return self

    async def aclose(self) -> None:
        self.gate.open.set()
        await self.pipeline.aclose()
        await self.client.aclose()


async def start_replica(
    url: str,
    prefix: str,
    rhythm: Rhythm = Rhythm(),  # noqa: B008
    *,
    timeout_s: float = STORE_TIMEOUT_S,
    policy: str = POLICY,
    **parts: Any,
) -> Replica:
    return await Replica(url, prefix, rhythm, timeout_s).start(policy, **parts)


async def until_true(condition: Any, timeout_s: float = 20.0) -> None:
    """Wait until the condition (plain or async) holds."""
    async with asyncio.timeout(timeout_s):
        while True:
            found = condition()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return
            await asyncio.sleep(0.01)


async def _lead(url: str, prefix: str) -> None:
    replica = await start_replica(url, prefix)
    run = asyncio.create_task(replica.pipeline.complete(ACME, request(**QUESTION)))
    await replica.gate.began.wait()
    print("leads", flush=True)
    await run


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_lead(sys.argv[1], sys.argv[2]))
