"""The ledger on a Redis Cluster of three nodes, through the url that the service would be given."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

import pytest
from redis.asyncio import Redis

from benchmarks.ledger.invariants import Crowd
from policies.amounts import Amount
from policies.batches import Batches
from policies.errors import BudgetDenied, StoreUnavailable
from policies.ledger import RedisLedger, Scopes, new_lease_id
from policies.store import connect, guarded
from router.ports import free_port
from tests.servers import ValkeyServer

SLOTS = 16384
UP_WITHIN_S = 30.0
SCOPES: Scopes = [
    ("organisation", {"month": {"tokens": 1000, "micro_usd": 10**6}}),
    ("tenant:a", {"minute": {"tokens": 500}, "day": {}}),
    ("key:a:k", {"day": {"gpu_ms": 5000}}),
]


@pytest.fixture
async def cluster(start_valkey: Callable[..., ValkeyServer]) -> list[ValkeyServer]:
    """Three masters that know one another, with a third of the slots each."""
    buses = [free_port(0) for _ in range(3)]
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "15000")
    nodes = [start_valkey(*options, "--cluster-port", str(bus)) for bus in buses]
    clients = [connect(node.url, command_timeout_s=10.0) for node in nodes]
    for number, client in enumerate(clients):
        first, last = SLOTS * number // 3, SLOTS * (number + 1) // 3 - 1
        await client.execute_command("CLUSTER ADDSLOTSRANGE", first, last)
        for node, bus in zip(nodes, buses, strict=True):
            await client.execute_command("CLUSTER MEET", "127.0.0.1", node.port, bus)
    deadline = time.monotonic() + UP_WITHIN_S
    for client in clients:
        while not await _whole(client):
            assert time.monotonic() < deadline, "the cluster did not come up"
            await asyncio.sleep(0.05)
        await client.aclose()
    return nodes


async def _whole(client: Redis) -> bool:
    info = await client.execute_command("CLUSTER INFO")
    return bool(info["cluster_state"] == "ok" and info["cluster_known_nodes"] == "3")


def url_of(node: ValkeyServer) -> str:
    return f"redis+cluster://127.0.0.1:{node.port}"


async def test_accounts_lie_on_all_nodes_and_each_in_one_slot(cluster: list[ValkeyServer]) -> None:
    client = connect(url_of(cluster[0]), command_timeout_s=10.0)
    ledger = RedisLedger(client)
    accounts = [f"org.o{number}" for number in range(24)]

    async def use(account: str) -> None:
        lease_id = new_lease_id(account)
        assert await ledger.reserve(lease_id, account, SCOPES, Amount(300, 100, 5), 30.0) == 200
        assert await ledger.extend(lease_id, Amount(100, 1)) == 100
        assert await ledger.checkpoint(lease_id, Amount(50), 30.0) == Amount(50)
        assert await ledger.settle(lease_id, Amount(60, 7, 1)) == 440
        await ledger.release(new_lease_id(account))
        with pytest.raises(BudgetDenied):
            await ledger.reserve(new_lease_id(account), account, SCOPES, Amount(1, 4994), 30.0)

    await asyncio.gather(*(use(account) for account in accounts))
    for account in accounts:
        found = await ledger.peek(account, SCOPES)
        assert {(g.used, g.held) for g in found if g.unit == "tokens"} == {(60, 0)}
    kept = []
    for node in cluster:
        direct = connect(node.url)
        kept.append(await direct.dbsize())
        await direct.aclose()
    assert all(kept), f"keys a node: {kept}"
    await client.aclose()


async def test_the_service_s_own_commands_run_on_a_cluster(cluster: list[ValkeyServer]) -> None:
    """As the replicas are made: behind a breaker, with a bound on every round trip."""
    client, batches = guarded(url_of(cluster[1]))
    ledger = RedisLedger(client, batches=batches)
    deadline = time.monotonic() + UP_WITHIN_S
    while time.monotonic() < deadline:  # on a busy machine finding the nodes may outlast a round trip
        with suppress(StoreUnavailable):
            await ledger.peek("t", SCOPES)
            break
        await asyncio.sleep(0.1)
    assert await ledger.reserve("t:1", "t", SCOPES, Amount(300), 30.0) == 200
    assert await ledger.settle("t:1", Amount(100)) == 400
    await batches.aclose()
    await client.aclose()


async def test_the_invariants_hold_on_a_cluster(cluster: list[ValkeyServer]) -> None:
    clients = [connect(url_of(node), command_timeout_s=30.0) for node in cluster]
    found = await Crowd([RedisLedger(client) for client in clients], 600, 64).run()
    assert found.broken == []
    for client in clients:
        await client.aclose()


async def test_a_node_that_is_gone_takes_only_its_own_accounts_along(cluster: list[ValkeyServer]) -> None:
    client = connect(url_of(cluster[0]), command_timeout_s=1.0)
    ledger = RedisLedger(client, batches=Batches(client))
    for number in range(12):
        await ledger.reserve(f"t{number}:1", f"t{number}", SCOPES, Amount(1), 30.0)
    cluster[2].kill()
    calls = (ledger.settle(f"t{number}:1", Amount(1)) for number in range(12))
    results = await asyncio.gather(*calls, return_exceptions=True)
    gone = [result for result in results if isinstance(result, StoreUnavailable)]
    assert 0 < len(gone) < 12
    assert all(isinstance(result, StoreUnavailable) or result == 499 for result in results)
    await client.aclose()
