"""Every kind of trouble with the budgets store, on a real server: answers, their time, and the bill after."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import pytest

from backends.engines.fake import FakeConfig, FakeEngine
from benchmarks.chaos.replica import Replica, ask, caller, counted, new_name, policy, settled
from policies.schema import Policy
from policies.store import connect
from router import errors as told
from router.request import Reply
from tests.fault_proxy import FaultProxy, Mode, fault_proxy
from tests.servers import ValkeyServer

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")

NAME = new_name()
POLICY = policy(NAME)
DENY, DEGRADE, ALLOW = f"{NAME}-deny", f"{NAME}-degrade", f"{NAME}-allow"
QUICK_S = 0.25  # a few milliseconds on an idle machine


async def admin(server: ValkeyServer, *command: str | int) -> object:
    client = connect(server.url, command_timeout_s=10.0)
    try:
        return await client.execute_command(*command)
    finally:
        await client.aclose()


class Trouble:
    """A way in which the store fails, and how it ends."""

    def __init__(self, server: ValkeyServer, proxy: FaultProxy) -> None:
        self.server = server
        self.proxy = proxy

    async def begin(self) -> None:
        raise NotImplementedError

    async def end(self) -> None:
        await self.proxy.set("pass")


class Refused(Trouble):
    async def begin(self) -> None:
        await self.proxy.set("refuse")


class Frozen(Trouble):
    async def begin(self) -> None:
        self.server.freeze()

    async def end(self) -> None:
        self.server.resume()


class Slow(Trouble):
    async def begin(self) -> None:
        await self.proxy.set("delay", delay_s=3.0)


class HalfReplies(Trouble):
    async def begin(self) -> None:
        await self.proxy.set("half")


class Garbage(Trouble):
    async def begin(self) -> None:
        await self.proxy.set("garbage")


class LostReplies(Trouble):
    async def begin(self) -> None:
        await self.proxy.set("drop")


class ReadOnly(Trouble):
    async def begin(self) -> None:
        await admin(self.server, "REPLICAOF", "127.0.0.1", 1)

    async def end(self) -> None:
        await admin(self.server, "REPLICAOF", "NO", "ONE")


class Full(Trouble):
    async def begin(self) -> None:
        await admin(self.server, "CONFIG", "SET", "maxmemory", 1)

    async def end(self) -> None:
        await admin(self.server, "CONFIG", "SET", "maxmemory", 0)


class Misconf(Trouble):
    """The disk cannot be written to: the server refuses writes."""

    async def begin(self) -> None:
        await admin(self.server, "CONFIG", "SET", "save", "1 1")
        await admin(self.server, "CONFIG", "SET", "dir", "/sys")
        with suppress(Exception):
            await admin(self.server, "BGSAVE")
        await eventually(self._refuses)

    async def _refuses(self) -> bool:
        try:
            await admin(self.server, "SET", "probe", 1)
        except Exception as error:
            return "MISCONF" in str(error)
        return False

    async def end(self) -> None:
        await admin(self.server, "CONFIG", "SET", "stop-writes-on-bgsave-error", "no")


class AuthLost(Trouble):
    """The password was changed, and connections were closed."""

    async def begin(self) -> None:
        await admin(self.server, "CONFIG", "SET", "requirepass", "changed")
        self.proxy.reset()

    async def end(self) -> None:
        client = connect(self.server.url.replace("//", "//:changed@"), command_timeout_s=10.0)
        await client.config_set("requirepass", "")
        await client.aclose()


class NotAllowed(Trouble):
    """The user may not run scripts any more."""

    async def begin(self) -> None:
        await admin(self.server, "ACL", "SETUSER", "default", "-@write", "-@scripting")

    async def end(self) -> None:
        await admin(self.server, "ACL", "SETUSER", "default", "+@all")


class Killed(Trouble):
    async def begin(self) -> None:
        self.server.kill()

    async def end(self) -> None:
        await asyncio.to_thread(self.server.start)


TROUBLES = [
    *(Refused, Frozen, Slow, HalfReplies, Garbage, LostReplies),
    *(ReadOnly, Full, Misconf, AuthLost, NotAllowed, Killed),
]


async def eventually(check: Callable[[], Awaitable[bool]], within_s: float = 20.0) -> float:
    began = time.monotonic()
    while not await check():
        assert time.monotonic() - began < within_s, "it did not happen in time"
        await asyncio.sleep(0.02)
    return time.monotonic() - began


@pytest.fixture
def server(start_valkey: Callable[..., ValkeyServer]) -> ValkeyServer:
    options = ["--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction"]
    return start_valkey(*options, "--enable-protected-configs", "yes")


@pytest.fixture
async def proxy(server: ValkeyServer) -> AsyncIterator[FaultProxy]:
    async with fault_proxy(server.port, seed=4) as proxy:
        yield proxy


async def answer(replica: Replica, tenant: str, text: str = "What is 3 + 4?") -> tuple[Reply | None, float]:
    """The reply, None for 503 budget_store_unavailable, and how long it took."""
    began = time.monotonic()
    try:
        reply = await replica.pipeline.complete(caller(tenant), ask(text))
    except told.StoreUnavailable as error:
        assert error.status == 503
        assert error.code == "budget_store_unavailable"
        assert error.retryable
        assert error.retry_after_s is not None
        return None, time.monotonic() - began
    return reply, time.monotonic() - began


@pytest.mark.parametrize("kind", TROUBLES, ids=lambda kind: kind.__name__)
async def test_trouble(
    server: ValkeyServer, proxy: FaultProxy, kind: type[Trouble], caplog: pytest.LogCaptureFixture
) -> None:
    """Before, during and after: deny refuses, degrade and allow answer; the bill is exact."""
    trouble = kind(server, proxy)
    charged = dict.fromkeys((DENY, DEGRADE, ALLOW), 0)
    async with Replica(proxy.url, POLICY) as replica:
        for tenant in charged:
            reply, _ = await answer(replica, tenant)
            assert reply is not None
            charged[tenant] += reply.receipt.charged_tokens

        await trouble.begin()
        with caplog.at_level(logging.WARNING):
            await eventually(lambda: _is_open(replica))
            for tenant in charged:
                reply, took_s = await answer(replica, tenant)
                assert took_s < QUICK_S or not replica.breaker.open
                if tenant == DENY:
                    assert reply is None
                else:
                    assert reply is not None
                    charged[tenant] += reply.receipt.charged_tokens
                    assert (reply.receipt.charged_tokens > 0) == (tenant == DEGRADE)
                    assert reply.receipt.degraded == (tenant == DEGRADE)
            await trouble.end()
            await eventually(lambda: _is_closed(replica))
        lines = [r.getMessage() for r in caplog.records if r.name == "policies.breaker"]
        assert len(lines) == 2, lines
        assert "does not answer" in lines[0]
        assert "answers again" in lines[1]

        for tenant in charged:
            reply, _ = await answer(replica, tenant)
            assert reply is not None
            assert not reply.receipt.degraded
            charged[tenant] += reply.receipt.charged_tokens
        for tenant, tokens in charged.items():
            await eventually(lambda: _is(server, POLICY, tenant, (tokens, 0)))  # noqa: B023


async def test_loading_is_waited_for(server: ValkeyServer, caplog: pytest.LogCaptureFixture) -> None:
    """A store that reads its data again after a crash refuses everything meanwhile."""
    client = connect(server.url, command_timeout_s=30.0)
    async with Replica(server.url, POLICY) as replica:
        first, _ = await answer(replica, DENY)
        assert first is not None
        await client.eval("for i = 1, 15000 do redis.call('SET', 'key' .. i, i) end", 0)
        server.kill()
        caplog.set_level(logging.DEBUG, "policies.breaker")
        slowly = ("--key-load-delay", "100")  # microseconds; it looks at its clients every 1024 commands
        starting = asyncio.create_task(asyncio.to_thread(server.start, *slowly))
        await eventually(lambda: _is_open(replica))
        await eventually(lambda: _is_closed(replica))
        await starting
        assert "LOADING" in caplog.text
        again, _ = await answer(replica, DENY, "What is 4 + 4?")
        assert again is not None
        charged = first.receipt.charged_tokens + again.receipt.charged_tokens
        await eventually(lambda: _is(server, POLICY, DENY, (charged, 0)))
    await client.aclose()


async def test_forgotten_scripts_are_no_trouble(server: ValkeyServer) -> None:
    async with Replica(server.url, POLICY) as replica:
        for number in range(5):
            await admin(server, "SCRIPT", "FLUSH")
            reply, _ = await answer(replica, DENY, f"What is {number} + 1?")
            assert reply is not None
        assert not replica.breaker.open


@pytest.mark.parametrize("what", ["holds", "budget:tenant:day:*", "limit:tenant:slots"])
async def test_a_key_of_another_type_is_one_tenants_trouble(
    server: ValkeyServer, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    async with Replica(server.url, POLICY) as replica:
        reply, _ = await answer(replica, DENY)
        assert reply is not None
        client = connect(server.url, command_timeout_s=10.0)
        found = [key async for key in client.scan_iter(match=f"acr:{{{DENY}}}:{what}")]
        spoiled = found or [f"acr:{{{DENY}}}:{what}"]
        for key in spoiled:
            await client.set(key, "somebody was here")
        for _ in range(5):  # more than open the breaker
            refused, _ = await answer(replica, DENY, "What is 1 + 1?")
            assert refused is None
            other, _ = await answer(replica, DEGRADE, "What is 1 + 1?")
            assert other is not None
            assert not other.receipt.degraded
        assert not replica.breaker.open
        assert f"s of {DENY} cannot be read or written" in caplog.text
        await client.delete(*spoiled)
        served, _ = await answer(replica, DENY, "What is 1 + 1?")
        assert served is not None
        await client.aclose()


@pytest.mark.parametrize("kind", [Frozen, Killed, Refused], ids=lambda kind: kind.__name__)
async def test_what_runs_when_the_store_goes_is_settled_when_it_is_back(
    server: ValkeyServer, proxy: FaultProxy, kind: type[Trouble]
) -> None:
    engine = FakeEngine(FakeConfig(token_delay_s=0.02))
    trouble = kind(server, proxy)
    async with Replica(proxy.url, POLICY, engine=engine) as replica:
        work = [asyncio.create_task(answer(replica, DENY, f"What is {i} + 1?")) for i in range(6)]
        left = [asyncio.create_task(answer(replica, DENY, f"Why is {i}?")) for i in range(6)]
        await eventually(lambda: _are_active(engine, 12))
        await trouble.begin()
        for task in left:
            task.cancel()
        replies = [reply for reply, _ in await asyncio.gather(*work)]
        assert all(reply is not None for reply in replies)
        await asyncio.sleep(0.5)
        await trouble.end()
        used = await settled(server.url, POLICY, DENY)
        assert used == replica.generated()
        assert used > sum(reply.receipt.charged_tokens for reply in replies if reply is not None)


async def test_slots_are_given_back_after_the_trouble(server: ValkeyServer, proxy: FaultProxy) -> None:
    async with Replica(proxy.url, POLICY, engine=FakeEngine(FakeConfig(token_delay_s=0.02))) as replica:
        work = [asyncio.create_task(answer(replica, DENY, f"What is {i} + 1?")) for i in range(4)]
        await eventually(lambda: _are_active(replica.engine, 4))
        slots = f"acr:{{{DENY}}}:limit:tenant:slots"
        assert await admin(server, "ZCARD", slots) == 4
        await proxy.set("refuse")
        await asyncio.gather(*work)
        assert await admin(server, "ZCARD", slots) == 4
        await proxy.set("pass")
        await eventually(lambda: _equals(admin(server, "ZCARD", slots), 0))


async def test_degraded_requests_are_capped_by_what_was_left(server: ValkeyServer, proxy: FaultProxy) -> None:
    """Replicas share what they last saw; together they stay within it, and the store hears of all of it."""
    small = policy(new_name(), budget=1000)
    tenant = next(name for name in small.tenants if name.endswith("degrade"))
    async with (
        Replica(proxy.url, small, outage_share=0.5) as one,
        Replica(proxy.url, small, outage_share=0.5) as two,
    ):
        charged = 0
        for replica in (one, two):
            for _ in range(2):  # what is left is looked at after an answer
                reply, _ = await answer(replica, tenant)
                assert reply is not None
                charged += reply.receipt.charged_tokens
                await asyncio.sleep(1.1)
        await proxy.set("refuse")
        answered = 0
        for number in range(100):
            for replica in (one, two):
                try:
                    reply, _ = await answer(replica, tenant, f"What is {number} + 1?")
                except told.QuotaExhausted:
                    continue
                assert reply is not None
                answered += 1
                charged += reply.receipt.charged_tokens
        assert 10 < answered < 100
        assert charged <= 1000
        await proxy.set("pass")
        await eventually(lambda: _is(server, small, tenant, (charged, 0)))


async def test_allow_runs_a_bounded_number_at_a_time(server: ValkeyServer, proxy: FaultProxy) -> None:
    engine = FakeEngine(FakeConfig(token_delay_s=0.02, parallel=1000))
    few = policy(new_name(), concurrency=5)
    tenant = next(name for name in few.tenants if name.endswith("allow"))
    async with Replica(proxy.url, few, engine=engine) as replica:
        await proxy.set("refuse")
        results = await asyncio.gather(*(answer(replica, tenant, f"What is {i}?") for i in range(20)))
        assert sum(reply is not None for reply, _ in results) == 5
        await proxy.set("pass")
        after, _ = await answer(replica, tenant)
        assert after is not None


async def test_limits_hold_in_this_replica_while_the_store_is_away(
    server: ValkeyServer, proxy: FaultProxy
) -> None:
    few = policy(new_name(), concurrency=5)
    tenant = next(name for name in few.tenants if name.endswith("degrade"))
    async with Replica(
        proxy.url, few, engine=FakeEngine(FakeConfig(token_delay_s=0.02, parallel=1000))
    ) as replica:
        await proxy.set("refuse")
        results = await asyncio.gather(
            *(answer(replica, tenant, f"What is {i}?") for i in range(20)), return_exceptions=True
        )
        assert sum(isinstance(result, told.RateLimited) for result in results) == 15
        await proxy.set("pass")
        after, _ = await answer(replica, tenant)
        assert after is not None


@pytest.mark.parametrize("mode", ["refuse", "freeze", "delay", "half", "garbage", "drop"])
async def test_the_cache_in_trouble_is_a_miss(server: ValkeyServer, proxy: FaultProxy, mode: Mode) -> None:
    caching = policy(new_name(), cache="deterministic")
    tenant = next(name for name in caching.tenants if name.endswith("deny"))
    async with Replica(server.url, caching, cache_url=proxy.url) as replica:
        await proxy.set(mode, delay_s=3.0)
        for _ in range(10):
            began = time.monotonic()
            reply = await replica.pipeline.complete(caller(tenant), ask("What is 3?", temperature=0.0))
            assert reply.receipt.cache in ("miss", "hit")  # a flight may be shared
            assert time.monotonic() - began < 2.0
        await proxy.set("pass")
        await eventually(lambda: _hits(replica, tenant))


async def _hits(replica: Replica, tenant: str) -> bool:
    reply = await replica.pipeline.complete(caller(tenant), ask("What is 3?", temperature=0.0))
    return reply.receipt.cache == "hit"


async def _are_active(engine: FakeEngine, count: int) -> bool:
    return engine.active == count


async def _equals(found: Awaitable[object], expected: object) -> bool:
    return await found == expected


async def _is_open(replica: Replica) -> bool:
    await answer(replica, DENY)
    return replica.breaker is not None and replica.breaker.open


async def _is_closed(replica: Replica) -> bool:
    return replica.breaker is not None and not replica.breaker.open


async def _is(server: ValkeyServer, policy: Policy, tenant: str, expected: tuple[int, int]) -> bool:
    return await counted(server.url, policy, tenant) == expected
