"""An attacker steers every request to the dearest tier: on a real server its share is never exceeded."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from policies.amounts import Amount
from policies.ledger import RedisLedger
from policies.limits import RedisLimits
from policies.store import connect
from router.errors import RouterError
from router.request import Caller, Reply
from tests.service import POLICY, TestService, request, start_service
from tests.tasks import says

STEERED = {"direct/direct": 0.1, "consistency/sc8": 0.2, "search/beam": 0.95}


@pytest.fixture
async def client(valkey_url: str) -> AsyncIterator[Redis]:
    client = connect(valkey_url, connect_timeout_s=60.0, command_timeout_s=60.0, pool_timeout_s=60.0)
    yield client
    await client.aclose()


async def steered(client: Redis, rule: str, budgets: str) -> tuple[TestService, Caller]:
    tenant = "t" + secrets.token_hex(6)
    policy = POLICY.replace("  acme:", f"  {tenant}:").replace(
        "budgets: {minute: 20000, day: 100000}", f"tier_share: {rule}\n    budgets: {budgets}"
    )
    service = await start_service(
        says(" word" * 24, delay_s=0.001),
        p=STEERED,
        policy=policy,
        ledger=RedisLedger(client),
        limits=RedisLimits(client),
    )
    return service, Caller(tenant, "k1")


async def spent(service: TestService, caller: Caller) -> tuple[int, int, int]:
    """Used and held on the tier, and used by the tenant, at one moment."""
    gauges = await service.ledger.peek(caller.tenant, [("tier:search", {"day": {}}), ("tenant", {"day": {}})])
    tier, tenant = (gauge for gauge in gauges if gauge.unit == "tokens")
    return tier.used, tier.held, tenant.used


async def settle_down(service: TestService) -> None:
    while service.pipeline._background._tasks:
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("leaving", [False, True])
async def test_256_steered_requests_at_once_stay_within_a_fifth_of_the_budget(
    client: Redis, leaving: bool
) -> None:
    budget = 400_000
    service, caller = await steered(client, "{search: 0.2}", f"{{day: {budget}}}")
    rng = random.Random(7)
    most, watching = 0, True

    async def watch() -> None:
        nonlocal most
        while watching:
            used, held, _ = await spent(service, caller)
            most = max(most, used + held)
            await asyncio.sleep(0.002)

    async def ask(number: int) -> Reply:
        work = asyncio.create_task(service.pipeline.complete(caller, request(f"steered {number}")))
        if leaving and number % 4 == 0:
            await asyncio.sleep(rng.uniform(0.0, 0.5))
            work.cancel()
        return await work

    watcher = asyncio.create_task(watch())
    replies = await asyncio.gather(*(ask(number) for number in range(256)), return_exceptions=True)
    await settle_down(service)
    watching = False
    await watcher
    answered = [reply for reply in replies if isinstance(reply, Reply)]
    assert all(isinstance(r, Reply | RouterError | asyncio.CancelledError) for r in replies)
    tiers = Counter(reply.receipt.tier for reply in answered)
    used, held, _ = await spent(service, caller)
    assert most <= 0.2 * budget
    assert tiers["search"] > 5  # it is used for what it may spend
    assert tiers["consistency"] + tiers["direct"] > 100  # and the others answer the rest
    on_search = sum(reply.receipt.charged_tokens for reply in answered if reply.receipt.tier == "search")
    if leaving:
        assert used + held >= on_search
    else:
        assert (used, held) == (on_search, 0)
        assert not any(reply.receipt.degraded for reply in answered)


async def test_without_a_budget_the_share_is_of_what_was_spent(client: Redis) -> None:
    service, caller = await steered(client, "{search: 0.25, floor_tokens: 30000}", "{}")
    tiers: Counter[str] = Counter()
    for wave in range(4):
        replies = await asyncio.gather(
            *(service.pipeline.complete(caller, request(f"{wave} {number}")) for number in range(64))
        )
        tiers.update(reply.receipt.tier for reply in replies)
        await settle_down(service)
        used, held, total = await spent(service, caller)
        assert held == 0
        assert used <= max(30_000, 0.25 * total)
    assert tiers["search"] > 0
    assert tiers["search"] < 128


async def test_a_hold_whose_replica_was_killed_counts_in_full(client: Redis) -> None:
    """Holds are made and never settled, as a kill leaves them; on the server's clock they expire as used."""
    service, caller = await steered(client, "{search: 0.2}", "{day: 100000}")
    scopes = [("tier:search", {"day": {"tokens": 20_000}})]
    for number in range(4):
        lease_id = f"{caller.tenant}:dead{number}.search"
        await service.ledger.reserve(lease_id, caller.tenant, scopes, Amount(5_000), 0.2)
        await service.ledger.checkpoint(lease_id, Amount(5_000), 0.2)
    used = held = 0
    for _ in range(1000):
        used, held, _ = await spent(service, caller)
        if held == 0:
            break
        await asyncio.sleep(0.01)
    assert (used, held) == (20_000, 0)
    reply = await service.pipeline.complete(caller, request())
    assert reply.receipt.tier != "search"
