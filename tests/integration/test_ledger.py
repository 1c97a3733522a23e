"""The ledger on a real server: races, crashes, timeouts, and the rules that must not be lost."""

from __future__ import annotations

import asyncio
import random
import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from redis.asyncio import Redis

from policies.amounts import Amount
from policies.errors import BudgetDenied, LeaseNotOpen, StoreUnavailable
from policies.ledger import Ledger, RedisLedger, Scopes, new_lease_id
from policies.memory_ledger import InMemoryLedger, edge_of
from policies.store import connect, lua_source
from tests.clocked import World, clocked_source, redis_world, token_gauges, windows
from tests.servers import ValkeyServer

TTL_S = 30.0


@pytest.fixture
async def client(valkey_url: str) -> AsyncIterator[Redis]:
    client = connect(valkey_url, command_timeout_s=10.0, pool_timeout_s=30.0)
    yield client
    await client.aclose()


@pytest.fixture
def tenant() -> str:
    return "t" + secrets.token_hex(8)


async def counted(ledger: Ledger, tenant: str, scope: str = "tenant") -> tuple[int, int]:
    gauge = (await ledger.peek(tenant, [(scope, windows(day=None))]))[0]
    return gauge.used, gauge.held


async def eventually(check: Callable[[], Awaitable[bool]], within_s: float = 5.0) -> None:
    deadline = time.monotonic() + within_s
    while not await check():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)


# -- races


async def test_100_tasks_on_a_budget_for_5_admit_exactly_5(client: Redis, tenant: str) -> None:
    ledger = RedisLedger(client)

    async def attempt() -> bool:
        try:
            await ledger.reserve(
                new_lease_id(tenant), tenant, [("tenant", windows(day=500))], Amount(100), TTL_S
            )
        except BudgetDenied:
            return False
        return True

    admitted = await asyncio.gather(*(attempt() for _ in range(100)))
    assert sum(admitted) == 5
    assert await counted(ledger, tenant) == (0, 500)


async def test_no_overshoot_with_duplicates_and_cancels(client: Redis, tenant: str) -> None:
    """Several replicas, repeated reserves and settlements, callers that leave: never past the limit."""
    replicas = [RedisLedger(client) for _ in range(3)]
    scopes: Scopes = [("tenant", windows(minute=None, day=30_000)), ("key:a", windows(day=20_000))]
    dice = random.Random(7)
    charged: dict[str, int] = {}
    denied: list[str] = []

    async def request(number: int) -> None:
        lease_id, tokens = new_lease_id(tenant), dice.randrange(1, 400)
        first, second = dice.choice(replicas), dice.choice(replicas)
        try:
            tries = [
                first.reserve(lease_id, tenant, scopes, Amount(tokens), TTL_S)
                for _ in range(dice.choice((1, 1, 2)))
            ]
            results = await asyncio.gather(*tries, return_exceptions=True)
            if any(isinstance(result, BudgetDenied) for result in results):
                denied.append(lease_id)
                return
            if number % 10 == 0:
                await asyncio.shield(second.release(lease_id))
                return
            used = dice.randrange(tokens + 1)
            charged[lease_id] = used
            repeats = [second.settle(lease_id, Amount(used)) for _ in range(dice.choice((1, 1, 2)))]
            await asyncio.gather(*repeats)
        except asyncio.CancelledError:
            # The caller has left; what it was admitted for is settled all the same.
            with suppress(LeaseNotOpen):
                await second.settle(lease_id, Amount(charged.get(lease_id, 0)))
            raise

    tasks = [asyncio.create_task(request(number)) for number in range(600)]
    for task in dice.sample(tasks, 60):
        asyncio.get_running_loop().call_later(dice.random() * 0.3, task.cancel)
    await asyncio.gather(*tasks, return_exceptions=True)
    # A cancelled reserve may still run on the server after its settlement found nothing; it is never settled.
    for scope, limit in (("tenant", 30_000), ("key:a", 20_000)):
        used, held = await counted(replicas[0], tenant, scope)
        assert used == sum(charged.values())
        assert used + held <= limit
    assert denied
    assert sum(charged.values()) > 1000


async def test_extensions_race_for_the_last_tokens(client: Redis, tenant: str) -> None:
    ledger = RedisLedger(client)
    scopes: Scopes = [("tenant", windows(day=1000))]
    leases = [new_lease_id(tenant) for _ in range(20)]
    for lease_id in leases:
        await ledger.reserve(lease_id, tenant, scopes, Amount(10), TTL_S)
    results = await asyncio.gather(*(ledger.extend(i, Amount(100)) for i in leases), return_exceptions=True)
    assert sum(not isinstance(result, BudgetDenied) for result in results) == 8
    assert await counted(ledger, tenant) == (0, 1000)


# -- expiry on the server's own clock


async def test_a_crashed_holder_neither_leaks_nor_is_forgiven(client: Redis, tenant: str) -> None:
    ledger = RedisLedger(client)
    lease_id = new_lease_id(tenant)
    await ledger.reserve(lease_id, tenant, [("tenant", windows(day=1000))], Amount(300), 0.2)
    await ledger.checkpoint(lease_id, Amount(120), 0.2)

    async def expired() -> bool:
        return await counted(ledger, tenant) == (120, 0)

    await eventually(expired)


async def test_many_expired_leases_are_swept_bit_by_bit(client: Redis, tenant: str) -> None:
    """One call sweeps at most 500, so that a crowd of dead leases cannot block the server."""
    world = await redis_world(client)
    for number in range(1100):
        await world.ledger.reserve(
            world.lease(str(number)), world.tenant, [("tenant", windows(day=None))], Amount(1), TTL_S
        )
    await world.later(TTL_S)
    held = [(await counted(world.ledger, world.tenant))[1] for _ in range(3)]
    assert held == [600, 100, 0]


async def test_what_is_left_behind_expires(client: Redis, tenant: str) -> None:
    ledger = RedisLedger(client)
    lease_id = new_lease_id(tenant)
    scopes: Scopes = [("tenant", windows(minute=1000, day=1000, month=1000))]
    await ledger.reserve(lease_id, tenant, scopes, Amount(10), TTL_S)
    lease_key = f"acr:{{{tenant}}}:lease:{lease_id.partition(':')[2]}"
    assert 39 * 86400 < await client.ttl(lease_key) <= 40 * 86400
    await ledger.settle(lease_id, Amount(5))
    assert 0 < await client.ttl(lease_key) <= 86400
    keys = [key async for key in client.scan_iter(match=f"acr:{{{tenant}}}:*", count=1000)]
    assert len(keys) == 4  # the lease and three windows; the set of holds is gone when empty
    for key in keys:
        assert 0 < await client.ttl(key) <= 33 * 86400


# -- a store that misbehaves


async def test_scripts_that_the_server_forgot_are_loaded_again(
    start_valkey: Callable[..., ValkeyServer],
) -> None:
    client = connect(start_valkey().url, command_timeout_s=5.0)
    ledger = RedisLedger(client)
    lease_id = new_lease_id("t")
    await ledger.reserve(lease_id, "t", [("tenant", windows(day=1000))], Amount(300), TTL_S)
    await client.script_flush()
    assert await ledger.settle(lease_id, Amount(100)) == 900
    await client.aclose()


@asynccontextmanager
async def two_ledgers(server: ValkeyServer) -> AsyncIterator[tuple[RedisLedger, RedisLedger]]:
    """A patient one for a server that runs, and a hasty one for a server that is frozen."""
    clients = [connect(server.url, command_timeout_s=timeout_s) for timeout_s in (10.0, 0.1)]
    yield RedisLedger(clients[0]), RedisLedger(clients[1])
    for client in clients:
        await client.aclose()


async def test_a_timed_out_settlement_is_repeated_and_charged_once(
    start_valkey: Callable[..., ValkeyServer],
) -> None:
    server = start_valkey()
    leases = [new_lease_id("t") for _ in range(8)]
    async with two_ledgers(server) as (ledger, hasty):
        for lease_id in leases:
            await ledger.reserve(lease_id, "t", [("tenant", windows(day=1000))], Amount(100), TTL_S)
        server.freeze()
        results = await asyncio.gather(*(hasty.settle(i, Amount(50)) for i in leases), return_exceptions=True)
        assert all(isinstance(result, StoreUnavailable) for result in results)
        server.resume()
        for lease_id in leases:
            await ledger.settle(lease_id, Amount(50))
        assert await counted(ledger, "t") == (400, 0)


async def test_a_timed_out_reserve_is_released_by_its_id(start_valkey: Callable[..., ValkeyServer]) -> None:
    """Whether the reserve runs before its release, after it, or never: nothing stays held."""
    server = start_valkey()
    scopes: Scopes = [("tenant", windows(day=1000))]
    leases = [new_lease_id("t") for _ in range(8)]
    async with two_ledgers(server) as (ledger, hasty):
        await ledger.reserve(
            new_lease_id("t"), "t", scopes, Amount(0), TTL_S
        )  # the server knows the script now
        server.freeze()
        held = [hasty.reserve(i, "t", scopes, Amount(10), TTL_S) for i in leases]
        results = await asyncio.gather(*held, return_exceptions=True)
        assert all(isinstance(result, StoreUnavailable) for result in results)
        server.resume()
        for lease_id in leases:
            await ledger.release(lease_id)
        assert await counted(ledger, "t") == (0, 0)
        for lease_id in leases:
            with pytest.raises(LeaseNotOpen):
                await ledger.reserve(lease_id, "t", scopes, Amount(10), TTL_S)


async def test_a_cancelled_command_does_not_answer_the_next_one(
    start_valkey: Callable[..., ValkeyServer],
) -> None:
    server = start_valkey()
    client = connect(server.url, command_timeout_s=5.0, max_connections=1)
    ledger = RedisLedger(client)
    await ledger.reserve("t:1", "t", [("tenant", windows(day=1000))], Amount(100), TTL_S)
    server.freeze()
    task = asyncio.create_task(ledger.settle("t:1", Amount(1)))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    server.resume()
    gauges = await token_gauges(ledger, "t", [("tenant", windows(minute=5, day=1000))])
    assert [gauge.window for gauge in gauges] == ["minute", "day"]
    assert await ledger.settle("t:1", Amount(1)) == 999
    await client.aclose()


async def test_charges_survive_a_killed_server(start_valkey: Callable[..., ValkeyServer]) -> None:
    # With everysec the server may acknowledge first and write later, while an earlier fsync is slow.
    server = start_valkey("--appendonly", "yes", "--appendfsync", "always")
    client = connect(server.url, command_timeout_s=5.0)
    ledger = RedisLedger(client)
    await ledger.reserve("t:1", "t", [("tenant", windows(day=1000))], Amount(300), TTL_S)
    await ledger.checkpoint("t:1", Amount(70), TTL_S)
    await ledger.reserve("t:2", "t", [("tenant", windows(day=1000))], Amount(200), TTL_S)
    await ledger.settle("t:2", Amount(150))
    server.kill()
    with pytest.raises(StoreUnavailable):
        await ledger.settle("t:1", Amount(80))
    server.start()
    assert await counted(ledger, "t") == (150, 300)
    assert await ledger.settle("t:1", Amount(80)) == 770
    await client.aclose()


async def test_a_server_that_is_not_there_costs_little_time() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        client = connect(f"redis://127.0.0.1:{nobody.getsockname()[1]}/0")
        before = time.monotonic()
        with pytest.raises(StoreUnavailable, match="did not answer"):
            await RedisLedger(client).settle("t:1", Amount(1))
        assert time.monotonic() - before < 2.0  # with redis-py's own retries: 4 to 5 s
        await client.aclose()


async def test_a_full_server_is_unavailable_and_holds_nothing(
    start_valkey: Callable[..., ValkeyServer],
) -> None:
    server = start_valkey("--maxmemory-policy", "noeviction")
    client = connect(server.url, command_timeout_s=5.0)
    ledger = RedisLedger(client)
    await ledger.reserve("t:1", "t", [("tenant", windows(day=1000))], Amount(300), TTL_S)
    await client.config_set("maxmemory", "1mb")
    with pytest.raises(StoreUnavailable):
        await ledger.reserve("t:2", "t", [("tenant", windows(day=1000))], Amount(300), TTL_S)
    await client.config_set("maxmemory", "0")
    assert await counted(ledger, "t") == (0, 300)
    await client.aclose()


async def test_a_busy_pool_makes_commands_wait(start_valkey: Callable[..., ValkeyServer]) -> None:
    client = connect(start_valkey().url, command_timeout_s=5.0, pool_timeout_s=10.0, max_connections=2)
    ledger = RedisLedger(client)
    await asyncio.gather(
        *(ledger.reserve(f"t:{n}", "t", [("tenant", windows(day=None))], Amount(1), TTL_S) for n in range(50))
    )
    assert await counted(ledger, "t") == (0, 50)
    await client.aclose()


async def test_it_runs_on_a_cluster(start_valkey: Callable[..., ValkeyServer]) -> None:
    """A node of a cluster refuses a script that touches keys of two slots."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        bus_port = probe.getsockname()[1]
    server = start_valkey("--cluster-enabled", "yes", "--cluster-port", str(bus_port))
    client = connect(server.url, command_timeout_s=5.0)
    await client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)

    async def ready() -> bool:
        info = await client.execute_command("CLUSTER INFO")
        return bool(info["cluster_state"] == "ok")

    await eventually(ready, within_s=20.0)
    ledger = RedisLedger(client)
    scopes: Scopes = [("tenant", windows(minute=1000, day=1000, month=None)), ("key:a", windows(day=500))]
    await ledger.reserve("t:1", "t", scopes, Amount(300), TTL_S)
    await ledger.extend("t:1", Amount(100))
    await ledger.checkpoint("t:1", Amount(50), TTL_S)
    assert await ledger.settle("t:1", Amount(60)) == 440
    await ledger.release("t:2")
    assert (await ledger.peek("t", scopes))[0].used == 60
    await client.aclose()


# -- the calendar


async def test_windows_end_where_the_calendar_says(client: Redis, tenant: str) -> None:
    dice = random.Random(11)
    moments = [datetime(2024, month, day, tzinfo=UTC) for month in range(1, 13) for day in (1, 28)]
    moments += [datetime(year, 2, 28, 23, 59, 59, tzinfo=UTC) for year in (2023, 2024, 2096, 2100)]
    moments += [datetime(2024, 2, 29, tzinfo=UTC), datetime(2099, 12, 31, 23, 59, 59, tzinfo=UTC)]
    moments += [datetime.fromtimestamp(dice.randrange(4_102_444_800), UTC) for _ in range(2000)]
    script = (
        lua_source("common")
        + """
        local out = {}
        for _, at in ipairs(ARGV) do
          for _, window in ipairs({ 'minute', 'day', 'month' }) do
            out[#out + 1] = edge_at(window, tonumber(at))
          end
        end
        return out"""
    )
    stamps = [int(moment.timestamp()) for moment in moments]
    edges = await client.eval(script, 1, f"acr:{{{tenant}}}:holds", *stamps)
    wanted = [int(edge_of(w, moment).timestamp()) for moment in moments for w in ("minute", "day", "month")]
    assert edges == wanted


# -- the rules, and what happens without them

Source = Callable[[str], str]
DAY: Scopes = [("tenant", windows(day=1000))]


async def reserve(world: World, tokens: int, name: str = "1", scopes: Scopes = DAY) -> None:
    await world.ledger.reserve(world.lease(name), world.tenant, scopes, Amount(tokens), TTL_S)


async def no_overshoot(world: World) -> None:
    admitted = 0
    for number in range(20):
        with suppress(BudgetDenied):
            await reserve(world, 100, str(number))
            admitted += 1
    assert admitted == 10


async def no_overshoot_by_extension(world: World) -> None:
    await reserve(world, 900)
    with pytest.raises(BudgetDenied):
        await world.ledger.extend(world.lease(), Amount(101))


async def a_repeat_holds_once(world: World) -> None:
    await reserve(world, 100)
    await reserve(world, 100)
    assert await counted(world.ledger, world.tenant) == (0, 100)


async def a_settlement_charges_once(world: World) -> None:
    await reserve(world, 100)
    for _ in range(2):
        await world.ledger.settle(world.lease(), Amount(40))
    assert await counted(world.ledger, world.tenant) == (40, 0)


async def all_scopes_or_none(world: World) -> None:
    with pytest.raises(BudgetDenied):
        await reserve(world, 100, scopes=[*DAY, ("key:a", windows(day=50))])
    assert await counted(world.ledger, world.tenant) == (0, 0)


async def a_crash_is_not_forgiven(world: World) -> None:
    await reserve(world, 100)
    await world.ledger.checkpoint(world.lease(), Amount(60), TTL_S)
    await world.later(TTL_S)
    assert await counted(world.ledger, world.tenant) == (60, 0)


async def a_crash_does_not_leak(world: World) -> None:
    await reserve(world, 1000, "1")
    await world.later(TTL_S)
    await reserve(world, 1000, "2")


async def a_late_settlement_is_not_charged_twice(world: World) -> None:
    await reserve(world, 100)
    await world.ledger.checkpoint(world.lease(), Amount(60), TTL_S)
    await world.later(TTL_S)
    await world.ledger.settle(world.lease(), Amount(80))
    assert await counted(world.ledger, world.tenant) == (80, 0)


async def a_lost_run_is_not_forgiven(world: World) -> None:
    await reserve(world, 100)
    await world.ledger.checkpoint(world.lease(), Amount(60), TTL_S)
    await world.ledger.settle(world.lease(), Amount(0))
    assert await counted(world.ledger, world.tenant) == (60, 0)


async def an_exact_settlement_is_believed(world: World) -> None:
    await reserve(world, 100)
    await world.ledger.checkpoint(world.lease(), Amount(60), TTL_S)
    await world.ledger.settle(world.lease(), Amount(50), exact=True)
    assert await counted(world.ledger, world.tenant) == (50, 0)


async def what_was_told_last_is_kept(world: World) -> None:
    await reserve(world, 100)
    assert await world.ledger.checkpoint(world.lease(), Amount(60), TTL_S) == Amount(60)
    assert await world.ledger.checkpoint(world.lease(), Amount(0), TTL_S) == Amount(60)


async def what_was_spent_is_not_released(world: World) -> None:
    await reserve(world, 100)
    await world.ledger.checkpoint(world.lease(), Amount(60), TTL_S)
    with suppress(LeaseNotOpen):
        await world.ledger.release(world.lease())
    assert await counted(world.ledger, world.tenant) == (0, 100)


async def a_released_id_holds_nothing_later(world: World) -> None:
    await world.ledger.release(world.lease())
    with suppress(LeaseNotOpen):
        await reserve(world, 100)
    assert await counted(world.ledger, world.tenant) == (0, 0)


async def a_checkpoint_keeps_the_lease(world: World) -> None:
    await reserve(world, 100)
    await world.later(TTL_S - 1)
    await world.ledger.checkpoint(world.lease(), Amount(1), TTL_S)
    await world.later(TTL_S - 1)
    assert await counted(world.ledger, world.tenant) == (0, 100)


async def an_extension_of_a_name_holds_once(world: World) -> None:
    await reserve(world, 100)
    for _ in range(2):
        await world.ledger.extend(world.lease(), Amount(100), part="2")
    assert await counted(world.ledger, world.tenant) == (0, 200)


Rule = Callable[[World], Awaitable[None]]
RULES: tuple[Rule, ...] = (
    no_overshoot,
    no_overshoot_by_extension,
    a_repeat_holds_once,
    a_settlement_charges_once,
    all_scopes_or_none,
    a_crash_is_not_forgiven,
    a_crash_does_not_leak,
    a_late_settlement_is_not_charged_twice,
    a_lost_run_is_not_forgiven,
    an_exact_settlement_is_believed,
    what_was_told_last_is_kept,
    what_was_spent_is_not_released,
    a_released_id_holds_nothing_later,
    a_checkpoint_keeps_the_lease,
    an_extension_of_a_name_holds_once,
)
MUTANTS: tuple[tuple[Rule, str, str, str], ...] = (
    (no_overshoot, "reserve", "NOTHING, more)", "NOTHING, NOTHING)"),
    (no_overshoot, "reserve", "if short then return short end", ""),
    (no_overshoot, "common", "+ known.held[unit] + more[unit]", "+ more[unit]"),
    (no_overshoot_by_extension, "extend", "if short then return short end", ""),
    (a_repeat_holds_once, "reserve", "if lease.state then", "if lease.state ~= 'open' and lease.state then"),
    (a_settlement_charges_once, "settle", "lease.state == 'open'", "lease.state"),
    (
        all_scopes_or_none,
        "common",
        "if limit then",
        "if limit and scope == 'tenant' then",
    ),
    (a_crash_is_not_forgiven, "common", "'expired', lease.checkpoint", "'expired', NOTHING"),
    (a_crash_does_not_leak, "common", "minus(NOTHING, lease.reserved)", "NOTHING"),
    (a_late_settlement_is_not_charged_twice, "settle", "minus(used, lease.charged)", "used"),
    (a_lost_run_is_not_forgiven, "settle", "larger(used, larger(lease.checkpoint, lease.charged))", "used"),
    (an_exact_settlement_is_believed, "settle", "if ARGV[3] ~= '1' then", "if true then"),
    (what_was_told_last_is_kept, "checkpoint", "larger(used, lease.checkpoint)", "used"),
    (what_was_spent_is_not_released, "release", "if not is_nothing(lease.checkpoint)", "if false"),
    (a_released_id_holds_nothing_later, "release", "redis.call('HSET', KEYS[2], 'state', 'released')", ""),
    (a_checkpoint_keeps_the_lease, "checkpoint", "now_ms + tonumber(ARGV[3])", "now_ms"),
    (an_extension_of_a_name_holds_once, "extend", "if part ~= 'part:'", "if false"),
)


@pytest.mark.parametrize("law", RULES, ids=lambda law: law.__name__)
async def test_the_rule_holds(law: Rule, client: Redis) -> None:
    await law(await redis_world(client))


@pytest.mark.parametrize(("law", "script", "line", "instead"), MUTANTS)
async def test_the_rule_notices_a_ledger_without_it(
    law: Rule, script: str, line: str, instead: str, client: Redis
) -> None:
    def mutated(name: str) -> str:
        text = clocked_source(name)
        if name != script:
            return text
        assert line in text, "the script has changed; change the mutant"
        if law is a_repeat_holds_once:
            text = text.replace("if lease.state == 'open' then", "if false then")
        return text.replace(line, instead)

    world = await redis_world(client)
    world.ledger = RedisLedger(client, source=mutated)
    with pytest.raises((AssertionError, BudgetDenied, pytest.fail.Exception)):
        await law(world)


# -- against a plain model

LEASES = [str(number) for number in range(4)]
MODEL_SCOPES: Scopes = [
    ("tenant", windows(minute=300, day=1000, month=5000)),
    ("key:a", windows(minute=None, day=600)),
]


class LedgerMachine(RuleBasedStateMachine):
    """The same commands to the Lua scripts and to the model; every answer and every number must agree."""

    url: str

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.client = connect(self.url, command_timeout_s=10.0)
        self.world = self.loop.run_until_complete(redis_world(self.client))
        self.model = InMemoryLedger(lambda: self.world.now_ms / 1000.0)

    def teardown(self) -> None:
        self.loop.run_until_complete(self.client.aclose())
        self.loop.close()

    def both(self, call: Callable[[Ledger], Awaitable[object]]) -> None:
        outcomes = [self.loop.run_until_complete(self.outcome(call, ledger)) for ledger in self.ledgers]
        assert outcomes[0] == outcomes[1]

    @property
    def ledgers(self) -> tuple[Ledger, Ledger]:
        return self.world.ledger, self.model

    async def outcome(self, call: Callable[[Ledger], Awaitable[object]], ledger: Ledger) -> object:
        try:
            return await call(ledger)
        except BudgetDenied as denied:
            return (denied.scope, denied.window, denied.remaining, round(denied.retry_after_s, 3))
        except LeaseNotOpen as closed:
            return closed.state

    @rule(lease=st.sampled_from(LEASES), tokens=st.integers(0, 400), ttl_s=st.sampled_from([1.0, 40.0]))
    def reserve(self, lease: str, tokens: int, ttl_s: float) -> None:
        world = self.world
        self.both(
            lambda ledger: ledger.reserve(
                world.lease(lease), world.tenant, MODEL_SCOPES, Amount(tokens), ttl_s
            )
        )

    @rule(lease=st.sampled_from(LEASES), tokens=st.integers(0, 400), part=st.sampled_from(["", "2", "3"]))
    def extend(self, lease: str, tokens: int, part: str) -> None:
        self.both(lambda ledger: ledger.extend(self.world.lease(lease), Amount(tokens), part=part))

    @rule(lease=st.sampled_from(LEASES), used=st.integers(0, 500), ttl_s=st.sampled_from([1.0, 40.0]))
    def checkpoint(self, lease: str, used: int, ttl_s: float) -> None:
        self.both(lambda ledger: ledger.checkpoint(self.world.lease(lease), Amount(used), ttl_s))

    @rule(lease=st.sampled_from(LEASES), used=st.integers(0, 500), exact=st.booleans())
    def settle(self, lease: str, used: int, exact: bool) -> None:
        self.both(lambda ledger: ledger.settle(self.world.lease(lease), Amount(used), exact=exact))

    @rule(lease=st.sampled_from(LEASES))
    def release(self, lease: str) -> None:
        self.both(lambda ledger: ledger.release(self.world.lease(lease)))

    @rule(seconds=st.sampled_from([0.5, 1.0, 20.0, 40.0, 61.0, 86400.0, 31 * 86400.0]))
    def wait(self, seconds: float) -> None:
        self.loop.run_until_complete(self.world.later(seconds))

    @invariant()
    def the_numbers_agree(self) -> None:
        found, wanted = (
            self.loop.run_until_complete(ledger.peek(self.world.tenant, MODEL_SCOPES))
            for ledger in self.ledgers
        )
        for one, other in zip(found, wanted, strict=True):
            assert (one.scope, one.window, one.used, one.held) == (
                other.scope,
                other.window,
                other.used,
                other.held,
            )
            assert one.used >= 0
            assert one.held >= 0
            assert one.reset_s == pytest.approx(other.reset_s, abs=0.002)


def test_the_ledger_is_the_model(valkey_url: str) -> None:
    class Machine(LedgerMachine):
        url = valkey_url

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
