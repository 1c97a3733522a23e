"""A process whose clock is wrong: `python -m benchmarks.chaos.skewed_replica URL NAME OFFSET_S`."""

from __future__ import annotations

import asyncio
import json
import sys
import time

REQUESTS = 60
BUDGET = 4_000


def skew(offset_s: float) -> None:
    """Before anything else is imported: every `time.time` is wrong from now on."""
    right = time.time
    time.time = lambda: right() + offset_s


async def main(url: str, name: str) -> None:
    """Ask until long after the budget is spent, and print what was decided."""
    from benchmarks.chaos.replica import Replica, ask, caller, policy
    from router.errors import RouterError

    rules = policy(name, budget=BUDGET)
    decided: list[object] = []
    async with Replica(url, rules) as replica:
        for number in range(REQUESTS):
            request = ask(f"What is {number}?", model=("auto", "consistency")[number % 2], seed=number)
            try:
                reply = await replica.pipeline.complete(caller(f"{name}-deny"), request)
            except RouterError as error:
                decided.append(error.code)
                continue
            told = reply.receipt
            decided.append([told.tier, told.samples_planned, told.charged_tokens, told.budget_remaining])
    print(json.dumps(decided))


if __name__ == "__main__":
    skew(float(sys.argv[3]))
    asyncio.run(main(sys.argv[1], sys.argv[2]))
