"""A request cancelled at any of its suspension points: held 0, charged what was generated, nothing left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import pytest
from starlette.types import Receive, Send

import router.lease
from backends.engines.fake import FakeConfig, FakeEngine
from backends.verifiers.base import VerifySpec
from benchmarks.chaos.replica import Replica, ask, caller, counted, new_name, policy, settled
from policies.schema import Policy
from policies.store import connect
from router.errors import IdempotencyInFlight
from router.http.once import Once, ticket
from router.http.wire import Wire
from tests.cancelling import cancelled_at
from tests.fault_proxy import fault_proxy
from tests.servers import ValkeyServer

MOST = 200
LADDER = {"direct/direct": 0.85, "consistency/sc4": 0.99}
VOTE = {"direct/direct": 0.1, "consistency/sc4": 0.9}


def speaker() -> FakeEngine:
    """Three tokens a reply, each a suspension; the first answer of all fails a check for at most 10."""
    return FakeEngine(
        FakeConfig(token_delay_s=0.001),
        script=lambda g, _: "The answer: 99" if g.sampling.temperature == 0 else "The answer: 7",
    )


async def direct(replica: Replica, tenant: str, number: int) -> None:
    await replica.pipeline.complete(caller(tenant), ask(f"What is {number}?"))


async def escalation(replica: Replica, tenant: str, number: int) -> None:
    request = ask(f"What is {number}?", verify=VerifySpec("number", maximum=10))
    await replica.pipeline.complete(caller(tenant), request)


async def hit(replica: Replica, tenant: str, number: int) -> None:
    await replica.pipeline.complete(caller(tenant), ask("What is 0?", temperature=0.0))


async def miss(replica: Replica, tenant: str, number: int) -> None:
    await replica.pipeline.complete(caller(tenant), ask(f"What is {number}?", temperature=0.0))


async def stream(replica: Replica, tenant: str, number: int) -> None:
    events = (await replica.pipeline.stream(caller(tenant), ask(f"What is {number}?"))).events
    async with aclosing(events):  # type: ignore[type-var]
        async for _ in events:
            pass


RUNS: list[Once] = []


async def idempotent(replica: Replica, tenant: str, number: int) -> None:
    """The request is cancelled, and not the run: that is its key's."""
    request = ask(f"What is {number}?")
    RUNS.append(Once(replica.idempotency))

    async def respond(receive: Receive, send: Send) -> bool:
        reply = await replica.pipeline.complete(caller(tenant), request)
        await Wire(200, [], reply.choices[0].text.encode()).send(send)
        return True

    use = ticket(caller(tenant), f"key-{number}".encode(), b"body")
    await RUNS[-1].answer(use, "r", respond, asyncio.Event().wait, sent)  # type: ignore[arg-type]


async def sent(message: object) -> None:
    """To a client that takes everything."""


async def runs_are_over() -> None:
    while RUNS:
        await RUNS.pop().aclose()


Kind = Callable[[Replica, str, int], Awaitable[None]]
CASES: dict[str, tuple[Kind, dict[str, float], str]] = {
    "direct": (direct, LADDER, "Visit.reply"),
    "consistency": (direct, VOTE, "Visit.reply"),
    "tier share": (direct, VOTE, "Visit.reply"),
    "escalation": (escalation, LADDER, "Visit.reply"),
    "cache hit": (hit, LADDER, "Visit.reply"),
    "cache miss": (miss, LADDER, "Visit.reply"),
    "stream": (stream, LADDER, "Visit.reply"),
    "idempotent": (idempotent, LADDER, "idempotent"),
    "tier": (direct, VOTE, "TierRunner._execute"),
}


@pytest.mark.parametrize("leave", [False, True], ids=["cancelled", "left"])
@pytest.mark.parametrize("case", CASES)
async def test_cancelled_anywhere(
    valkey_url: str, case: str, leave: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(router.lease, "ABANDONED_AFTER_S", 0.2)
    kind, p, name = CASES[case]
    share = "{window: day, consistency: 0.9}" if case == "tier share" else "{}"
    rules = policy(new_name(), cache="deterministic", hit_charge_tokens=5, tier_share=share)
    tenant = next(name for name in rules.tenants if name.endswith("deny"))
    before = asyncio.all_tasks()
    async with Replica(valkey_url, rules, engine=speaker(), p=p, cache_url=valkey_url) as replica:
        hits = 0
        if kind is hit:
            await hit(replica, tenant, 0)
        for k in range(1, MOST):
            struck = await cancelled_at(k, name, lambda: kind(replica, tenant, k), leave=leave)  # noqa: B023
            await runs_are_over()
            used = await settled(valkey_url, rules, tenant)
            generated = replica.generated()
            if kind is hit:  # one that was charged may have been cancelled after it
                assert 0 <= used - generated - hits <= 5, k
                hits = used - generated
            else:
                assert used == generated, k
            assert replica.engine.active == 0, k
            if not struck:
                break
        else:
            pytest.fail(f"it has more than {MOST} suspension points")
        assert k > 3
        await free_slots(valkey_url, tenant)
        if kind is idempotent:  # a key of which the request was cancelled is free again
            for number in range(1, k + 1):
                await again(replica, tenant, number)
        await runs_are_over()
        await no_others(before)


@pytest.mark.parametrize("leave", [False, True], ids=["cancelled", "left"])
async def test_cancelled_while_the_store_is_away(
    start_valkey: Callable[..., ValkeyServer], leave: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Degraded requests are owed to the store, also what those had spent that were cancelled."""
    server = start_valkey()
    rules = policy(new_name())
    tenant = next(name for name in rules.tenants if name.endswith("degrade"))
    async with (
        fault_proxy(server.port) as proxy,
        Replica(proxy.url, rules, engine=speaker(), p=LADDER) as replica,
    ):
        await proxy.set("refuse")
        for k in range(1, MOST):
            if not await cancelled_at(k, "Visit.reply", lambda: direct(replica, tenant, k), leave=leave):  # noqa: B023
                break
        assert k >= 3
        await proxy.set("pass")
        async with asyncio.timeout(20):
            while await counted(server.url, rules, tenant) != (replica.generated(), 0):
                await asyncio.sleep(0.05)


async def again(replica: Replica, tenant: str, number: int) -> None:
    """As a client would that was refused."""
    async with asyncio.timeout(10):
        while True:
            try:
                return await idempotent(replica, tenant, number)
            except IdempotencyInFlight:
                await asyncio.sleep(0.02)


async def free_slots(url: str, tenant: str) -> None:
    client = connect(url, command_timeout_s=10.0)
    async with asyncio.timeout(10):
        while await client.zcard(f"acr:{{{tenant}}}:limit:tenant:slots"):
            await asyncio.sleep(0.02)
    await client.aclose()


async def no_others(before: set[asyncio.Task[object]]) -> None:
    async with asyncio.timeout(10):
        while asyncio.all_tasks() - before:
            await asyncio.sleep(0.02)


def test_the_policy_counts_slots() -> None:
    """Else `free_slots` would look at nothing."""
    found: Policy = policy("x")
    assert found.tenants["x-deny"].limits.concurrency
