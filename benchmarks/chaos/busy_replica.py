"""A process that answers requests until it is killed: `python -m benchmarks.chaos.busy_replica URL NAME`."""

from __future__ import annotations

import asyncio
import itertools
import sys

from backends.engines.fake import FakeConfig, FakeEngine
from benchmarks.chaos.replica import Replica, ask, caller, policy

AT_A_TIME = 16
LEASE_TTL_S = 2.0
TOKEN_DELAY_S = 0.15  # about 30 tokens an answer: it takes longer than a lease lasts by itself


async def main(url: str, name: str) -> None:
    numbers = itertools.count()
    rules = policy(name)
    engine = FakeEngine(FakeConfig(token_delay_s=TOKEN_DELAY_S), script=lambda g, _: "one " * 30)
    async with Replica(url, rules, engine=engine, lease_ttl_s=LEASE_TTL_S) as replica:

        async def ask_on() -> None:
            for number in numbers:
                await replica.pipeline.complete(caller(f"{name}-deny"), ask(f"What is {number}?"))

        print("ready", flush=True)
        await asyncio.gather(*(ask_on() for _ in range(AT_A_TIME)))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
