"""Replicas whose clocks are an hour apart decide alike: only the server's clock counts."""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
from typing import Any

from policies.amounts import Amount
from policies.errors import BudgetDenied
from policies.ledger import RedisLedger, Scopes
from policies.store import connect

# A replica in a process of its own, with the clock that it is told.
REPLICA = """
import asyncio, json, sys, time, datetime
url, account, shift_s = sys.argv[1], sys.argv[2], float(sys.argv[3])
real = time.time
time.time = lambda: real() + shift_s
from policies.amounts import Amount
from policies.errors import BudgetDenied
from policies.ledger import RedisLedger
from policies.store import connect

SCOPES = [("organisation", {"minute": {"tokens": 10**6}, "day": {"tokens": 1000}, "month": {}}),
          ("tenant:a", {"day": {"gpu_ms": 5000}})]

async def main():
    client = connect(url, command_timeout_s=30.0, connect_timeout_s=10.0)
    ledger = RedisLedger(client)
    granted = 0
    for number in range(20):
        lease = f"{account}:{sys.argv[4]}-{number}"
        try:
            await ledger.reserve(lease, account, SCOPES, Amount(30, 10), 3600.0)
        except BudgetDenied:
            continue
        granted += 1
        if number % 2:
            await ledger.checkpoint(lease, Amount(5), 3600.0)
            await ledger.settle(lease, Amount(30, 10))
    gauges = await ledger.peek(account, SCOPES)
    await client.aclose()
    print(json.dumps({"granted": granted, "resets": [round(g.reset_s) for g in gauges],
                      "clock": round(time.time())}))

asyncio.run(main())
"""
SCOPES: Scopes = [("organisation", {"day": {"tokens": 1000}}), ("tenant:a", {"day": {"gpu_ms": 5000}})]


async def replica(url: str, account: str, shift_s: float, name: str) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", REPLICA, url, account, str(shift_s), name, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    found: dict[str, Any] = json.loads(out)
    return found


async def test_clocks_an_hour_apart_decide_alike(valkey_url: str) -> None:
    account = "org.t" + secrets.token_hex(6)
    shifts = {"behind": -3600.0, "right": 0.0, "ahead": 3600.0, "tomorrow": 86_400.0}
    told = await asyncio.gather(*(replica(valkey_url, account, s, n) for n, s in shifts.items()))
    clocks = sorted(found["clock"] for found in told)
    assert clocks[-1] - clocks[0] > 80_000, "the clocks were not shifted: the test proves nothing"
    # 80 reserves of 30 tokens: together they get what one would, 33, whose 990 tokens are used or held.
    assert sum(found["granted"] for found in told) == 33
    client = connect(valkey_url, command_timeout_s=30.0)
    ledger = RedisLedger(client)
    gauges = [g for g in await ledger.peek(account, SCOPES) if g.limit is not None]
    assert [g.used + g.held for g in gauges] == [990, 330]
    for place in range(len(told[0]["resets"])):
        edges = [found["resets"][place] for found in told]
        assert max(edges) - min(edges) <= 60 or place < 3  # minutes may end in between
    try:
        await ledger.reserve(f"{account}:last", account, SCOPES, Amount(11), 30.0)
    except BudgetDenied as denied:
        assert denied.remaining == 10
    else:
        raise AssertionError("it must be denied")
    await client.aclose()
