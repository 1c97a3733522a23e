"""Identical requests on different replicas share one run, over a real Valkey."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from uuid import uuid4

import pytest

from backends.task import TextDelta
from router.errors import TierUnavailable
from router.request import Reply, ReplyEvent
from router.shared_flight import Rhythm
from tests.replicas import QUESTION, Replica, start_replica, until_true
from tests.servers import ValkeyServer
from tests.service import ACME, Caller, request

QUICK = Rhythm(lease_s=1.0, look_s=0.05, silence_s=1.0)
# Where a lease must not run out, however long a loaded machine stands still.
UNHURRIED = Rhythm(lease_s=60.0)
Start = Callable[..., Awaitable[Replica]]


@pytest.fixture
def prefix() -> str:
    return f"test:{uuid4().hex}:"


@pytest.fixture
async def start(valkey_url: str, prefix: str) -> AsyncIterator[Start]:
    """Starts replicas that share a store; all are closed afterwards."""
    replicas: list[Replica] = []

    async def start_one(url: str = valkey_url, **more: object) -> Replica:
        replicas.append(await start_replica(url, prefix, **more))  # type: ignore[arg-type]
        return replicas[-1]

    yield start_one
    for replica in replicas:
        await replica.aclose()


def ask(replica: Replica, caller: Caller = ACME, **fields: object) -> asyncio.Task[Reply]:
    return asyncio.create_task(replica.pipeline.complete(caller, request(**{**QUESTION, **fields})))


async def held(replica: Replica, prefix: str) -> bool:
    return bool([key async for key in replica.client.scan_iter(match=f"{prefix}flight:*")])


async def stays(condition: Callable[[], bool], seconds: float = 0.3) -> bool:
    """Whether it holds all the while; several of the waiters' looks fall into it."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if not condition():
            return False
        await asyncio.sleep(0.01)
    return True


async def test_three_replicas_run_once_and_the_others_are_hits(start: Start, prefix: str) -> None:
    replicas = [await start(rhythm=UNHURRIED) for _ in range(3)]
    leader = replicas[0]
    first = ask(leader)
    await leader.gate.began.wait()
    others = [ask(replica) for replica in replicas for _ in range(4)]
    assert await stays(lambda: sum(r.gate.runs for r in replicas) == 1)
    leader.gate.open.set()
    reply = await first
    replies = await asyncio.gather(*others)
    assert sum(r.gate.runs for r in replicas) == 1
    assert reply.receipt.cache == "miss"
    assert {r.receipt.cache for r in replies} == {"hit"}
    assert {r.receipt.saved_tokens for r in replies} == {reply.receipt.spend.total}
    assert {r.choices for r in replies} == {reply.choices}
    assert len({r.id for r in [reply, *replies]}) == 13
    await until_true(lambda: _none(held(leader, prefix)))


async def _none(found: Awaitable[bool]) -> bool:
    return not await found


async def test_replicas_that_begin_together_still_run_once(start: Start) -> None:
    replicas = [await start(rhythm=UNHURRIED) for _ in range(3)]
    tasks = [ask(replica) for replica in replicas for _ in range(8)]
    await until_true(lambda: sum(r.gate.runs for r in replicas) > 0)
    for replica in replicas:
        replica.gate.open.set()
    replies = await asyncio.gather(*tasks)
    assert sum(r.gate.runs for r in replicas) == 1
    assert sorted(r.receipt.cache for r in replies) == ["hit"] * 23 + ["miss"]


async def test_other_tenants_and_other_questions_do_not_wait(start: Start) -> None:
    one, two = await start(), await start()
    first = ask(one)
    await one.gate.began.wait()
    two.gate.open.set()
    assert (await ask(two, Caller("cheap", "k2"))).receipt.cache == "miss"
    assert (await ask(two, seed=4)).receipt.cache == "miss"
    assert (await ask(two, cache_mode="no-cache")).receipt.cache == "bypass"
    assert not first.done()
    one.gate.open.set()
    await first


async def test_a_leader_that_fails_promotes_exactly_one(start: Start) -> None:
    leader, two, three = [await start(rhythm=QUICK) for _ in range(3)]
    first = ask(leader)
    await leader.gate.began.wait()
    others = [ask(two), ask(three), ask(two), ask(three)]
    assert await stays(lambda: two.gate.runs + three.gate.runs == 0)
    leader.gate.failure = TierUnavailable("gone", retry_after_s=1.0)
    leader.gate.open.set()
    with pytest.raises(TierUnavailable):
        await first
    await until_true(lambda: two.gate.runs + three.gate.runs == 1)
    assert await stays(lambda: two.gate.runs + three.gate.runs == 1)
    two.gate.open.set()
    three.gate.open.set()
    replies = await asyncio.gather(*others)
    assert two.gate.runs + three.gate.runs == 1
    assert sorted(r.receipt.cache for r in replies) == ["hit", "hit", "hit", "miss"]


async def test_a_leader_whose_client_leaves_promotes_exactly_one(start: Start) -> None:
    leader, two, three = [await start() for _ in range(3)]
    first = ask(leader)
    await leader.gate.began.wait()
    others = [ask(two), ask(three)]
    assert await stays(lambda: two.gate.runs + three.gate.runs == 0)
    first.cancel()
    began = time.monotonic()
    await until_true(lambda: two.gate.runs + three.gate.runs == 1)
    assert time.monotonic() - began < 2.5  # given back, not run out
    two.gate.open.set()
    three.gate.open.set()
    replies = await asyncio.gather(*others)
    assert two.gate.runs + three.gate.runs == 1
    assert sorted(r.receipt.cache for r in replies) == ["hit", "miss"]


async def test_a_waiter_that_leaves_harms_nobody(start: Start) -> None:
    leader, two, three = [await start() for _ in range(3)]
    first = ask(leader)
    await leader.gate.began.wait()
    leaving, staying = ask(two), ask(three)
    assert await stays(lambda: two.gate.runs + three.gate.runs == 0)
    leaving.cancel()
    leader.gate.open.set()
    assert (await first).receipt.cache == "miss"
    assert (await staying).receipt.cache == "hit"
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert two.gate.runs + three.gate.runs == 0


async def test_a_leader_that_is_killed_promotes_exactly_one(
    start: Start, valkey_url: str, prefix: str
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.replicas", valkey_url, prefix,
        stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2], env={**os.environ},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        async with asyncio.timeout(120):
            assert await process.stdout.readline() == b"leads\n"
        two, three = await start(), await start()
        others = [ask(two), ask(three), ask(two), ask(three)]
        # Longer than a lease lasts: it is renewed as long as its holder lives.
        lease_s = Rhythm().lease_s
        assert await stays(lambda: two.gate.runs + three.gate.runs == 0, lease_s + 1.0)
        process.send_signal(signal.SIGKILL)
        await process.wait()
        killed_at = time.monotonic()
        await until_true(lambda: two.gate.runs + three.gate.runs == 1)
        assert time.monotonic() - killed_at < lease_s + 2.0
        assert await stays(lambda: two.gate.runs + three.gate.runs == 1)
        two.gate.open.set()
        three.gate.open.set()
        replies = await asyncio.gather(*others)
        assert two.gate.runs + three.gate.runs == 1
        assert sorted(r.receipt.cache for r in replies) == ["hit", "hit", "hit", "miss"]
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_leader_that_was_thought_dead_takes_nothing_from_its_successor(
    start: Start, prefix: str
) -> None:
    leader, two = await start(), await start()
    first = ask(leader)
    await leader.gate.began.wait()
    (lease,) = [key async for key in leader.client.scan_iter(match=f"{prefix}flight:*")]
    await leader.client.delete(lease)  # as if it had run out
    second = ask(two)
    await two.gate.began.wait()
    token = await two.client.get(lease)
    leader.gate.open.set()
    await first
    await until_true(lambda: _there(leader, f"{prefix}answer:*"))
    assert await two.client.get(lease) == token
    two.gate.open.set()
    assert (await second).receipt.cache == "miss"


async def _there(replica: Replica, match: str) -> bool:
    return bool([key async for key in replica.client.scan_iter(match=match)])


async def test_a_dead_store_means_running_alone_at_once(start: Start, tmp_path: Path) -> None:
    url = f"unix://{tmp_path}/nobody.sock"
    replicas = [await start(url) for _ in range(2)]
    for replica in replicas:
        replica.gate.open.set()
    replies = await asyncio.gather(*(ask(replica) for replica in replicas for _ in range(3)))
    assert [replica.gate.runs for replica in replicas] == [1, 1]  # local flights stay
    assert sorted(r.receipt.cache for r in replies) == ["hit"] * 4 + ["miss"] * 2


async def test_a_store_that_dies_in_mid_flight_lets_everyone_end(
    start: Start, start_valkey: Callable[..., ValkeyServer]
) -> None:
    server = start_valkey()
    leader, two = [await start(server.url, rhythm=QUICK, timeout_s=0.3) for _ in range(2)]
    first = ask(leader)
    await leader.gate.began.wait()
    second = ask(two)
    assert await stays(lambda: two.gate.runs == 0)
    server.kill()
    leader.gate.open.set()
    two.gate.open.set()
    assert (await first).receipt.cache == "miss"
    assert (await second).receipt.cache == "miss"


async def test_a_frozen_store_lets_everyone_end(
    start: Start, start_valkey: Callable[..., ValkeyServer]
) -> None:
    server = start_valkey()
    leader, two = [await start(server.url, rhythm=QUICK, timeout_s=0.3) for _ in range(2)]
    first = ask(leader)
    await leader.gate.began.wait()
    second = ask(two)
    assert await stays(lambda: two.gate.runs == 0)
    server.freeze()
    two.gate.open.set()
    assert (await second).receipt.cache == "miss"
    server.resume()
    leader.gate.open.set()
    assert (await first).receipt.cache == "miss"


async def test_a_waiter_outlasts_lost_connections(
    start: Start, start_valkey: Callable[..., ValkeyServer]
) -> None:
    server = start_valkey()
    patient = Rhythm(lease_s=1.0, look_s=0.05, silence_s=20.0)
    leader, two = [await start(server.url, rhythm=patient, timeout_s=0.3) for _ in range(2)]
    first = ask(leader)
    await leader.gate.began.wait()
    second = ask(two)
    assert await stays(lambda: two.gate.runs == 0)
    connections = leader.client, two.client
    for client in connections:
        await client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "no")
    leader.gate.open.set()
    assert (await first).receipt.cache == "miss"
    assert (await second).receipt.cache == "hit"
    assert two.gate.runs == 0


async def test_a_stuck_leader_costs_half_of_the_deadline_and_no_error(start: Start) -> None:
    leader, two = await start(), await start()
    first = ask(leader, deadline_s=60.0)
    await leader.gate.began.wait()
    second = ask(two, deadline_s=60.0)
    assert await stays(lambda: two.gate.runs == 0)
    impatient = ask(two, deadline_s=0.6)  # another key: it leads at once
    await until_true(lambda: two.gate.runs == 1)
    third = ask(leader, deadline_s=0.6)
    await until_true(lambda: leader.gate.runs == 2)  # after 0.3 s of waiting
    for replica in (leader, two):
        replica.gate.open.set()
    replies = await asyncio.gather(first, second, impatient, third)
    assert [r.receipt.cache for r in replies] == ["miss", "hit", "miss", "miss"]


async def test_an_answer_that_may_not_be_shared_promotes_the_next(start: Start) -> None:
    """A truncated answer is its own caller's alone."""
    leader, two = await start(), await start()
    small = {"max_completion_tokens": 1}
    first = ask(leader, **small)
    await leader.gate.began.wait()
    second = ask(two, **small)
    assert await stays(lambda: two.gate.runs == 0)
    leader.gate.open.set()
    two.gate.open.set()
    replies = await asyncio.gather(first, second)
    assert [r.choices[0].finish_reason for r in replies] == ["length", "length"]
    assert [r.receipt.cache for r in replies] == ["miss", "miss"]
    assert (leader.gate.runs, two.gate.runs) == (1, 1)


async def test_a_streaming_waiter_may_be_told_to_wait_and_gets_a_stream(start: Start) -> None:
    leader, two = await start(), await start()
    first = ask(leader)
    await leader.gate.began.wait()
    async with asyncio.timeout(20):
        # It is handed out while the answer is still on its way: heartbeats can go out.
        stream = await two.pipeline.stream(ACME, request(**QUESTION))
        local = await two.pipeline.stream(ACME, request(**QUESTION))
    leader.gate.open.set()
    reply = await first
    for each in (stream, local):
        events: list[ReplyEvent] = [event async for event in each.events]
        assert [type(event) for event in events] == [TextDelta, Reply]
        assert isinstance(events[-1], Reply)
        assert events[-1].receipt.cache == "hit"
        assert events[-1].choices == reply.choices
        assert events[-1].id == each.id
    assert two.gate.runs == 0
