"""The log in a real store: what lies there, and what happens while it is away, full or a cluster."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from policies.batches import Batches
from policies.store import connect
from router import errors as told
from router.decisions.errors import LogUnavailable
from router.decisions.log import BEGINNING, Feedback, scores
from router.decisions.reading import Reader
from router.decisions.redis_log import RedisDecisionLog
from router.decisions.writer import DecisionWriter
from tests.decisions import full, plain
from tests.integration.test_ledger_cluster import cluster, url_of
from tests.servers import ValkeyServer
from tests.service import ACME, CHEAP, POLICY, TestService, request, start_service
from tests.tasks import says, until

pytestmark = pytest.mark.integration

__all__ = ["cluster"]

OPTED_IN = POLICY.replace("default_effort: high", "default_effort: high\n    log_prompts: true")


@contextlib.asynccontextmanager
async def log_at(url: str, **caps: Any) -> AsyncIterator[RedisDecisionLog]:
    client = connect(url, connect_timeout_s=0.3, command_timeout_s=0.3, decode_responses=False)
    try:
        yield RedisDecisionLog(Batches(client, round_trip_s=0.3), **caps)
    finally:
        await client.aclose()


@contextlib.asynccontextmanager
async def service_at(url: str, **parts: Any) -> AsyncIterator[tuple[TestService, DecisionWriter]]:
    async with log_at(url) as log:
        writer = DecisionWriter(log, gather_s=0.0, rest_s=0.05)
        service = await start_service(says("the reply with quetzal"), decisions=writer, **parts)
        yield service, writer
        await writer.aclose()


async def raw(url: str) -> bytes:
    """Everything that the store has, as bytes."""
    client: Redis = connect(url, decode_responses=False)
    found = b""
    for key in await client.keys("*"):
        found += key + await client.dump(key)
        if await client.type(key) == b"stream":
            found += repr(await client.xrange(key)).encode()
    await client.aclose()
    return found


async def test_neither_question_nor_answer_lies_in_the_store_without_leave(
    start_valkey: Callable[..., ValkeyServer],
) -> None:
    server = start_valkey()
    async with service_at(server.url) as (service, writer):
        await service.pipeline.complete(ACME, request("a question with axolotl in it"))
        await service.pipeline.complete(CHEAP, request("another axolotl"))
        with pytest.raises(told.ModelNotFound):
            await service.pipeline.complete(ACME, request("and an axolotl", model="none"))
        await until(lambda: writer.counts.written == 3)
        held = await raw(server.url)
    assert b"dec-" in held
    assert b"model_not_found" in held
    assert b"axolotl" not in held
    assert b"quetzal" not in held


async def test_the_question_lies_there_with_leave_and_the_answer_never(
    start_valkey: Callable[..., ValkeyServer],
) -> None:
    server = start_valkey()
    async with service_at(server.url, policy=OPTED_IN) as (service, writer):
        await service.pipeline.complete(ACME, request("a question with axolotl in it"))
        await service.pipeline.complete(CHEAP, request("a secret of the other tenant's"))
        await until(lambda: writer.counts.written == 2)
        held = await raw(server.url)
    assert b"axolotl" in held
    assert b"secret of the other" not in held
    assert b"quetzal" not in held


@pytest.mark.parametrize("trouble", ["kill", "freeze"])
async def test_requests_go_on_while_the_store_is_away_and_what_waited_is_logged(
    start_valkey: Callable[..., ValkeyServer], trouble: str
) -> None:
    server = start_valkey()
    async with service_at(server.url) as (service, writer):
        getattr(server, trouble)()
        for number in range(5):
            reply = await service.pipeline.complete(ACME, request(f"{number}"))
            assert reply.choices[0].text == "the reply with quetzal"
        assert writer.counts.written == 0
        server.start() if trouble == "kill" else server.resume()
        await until(lambda: writer.counts.written == 5)
        assert writer.counts.dropped == 0
        ids = [each.decision.decision_id for each in await writer.log.after(BEGINNING) if each.decision]
    assert len(set(ids)) == 5  # a batch that timed out may be there twice


async def test_a_store_that_is_full_or_has_something_else_there_is_trouble_and_no_failure(
    start_valkey: Callable[..., ValkeyServer],
) -> None:
    server = start_valkey()
    client = connect(server.url)
    await client.set("acr-decisions:{log}:entries", "somebody else's")
    async with service_at(server.url) as (service, writer):
        await service.pipeline.complete(ACME, request())
        await asyncio.sleep(0.1)
        assert writer.counts.written == 0
        await client.delete("acr-decisions:{log}:entries")
        await client.config_set("maxmemory", "1mb")
        await client.config_set("maxmemory-policy", "noeviction")
        with contextlib.suppress(Exception):
            for number in range(40):
                await client.set(f"filler{number}", "x" * 100_000)
        await service.pipeline.complete(ACME, request("again"))
        await asyncio.sleep(0.1)
        assert writer.counts.written == 0
        await client.config_set("maxmemory", "0")
        await until(lambda: writer.counts.written == 2)
    await client.aclose()


async def test_what_cannot_be_read_is_told_and_skipped(start_valkey: Callable[..., ValkeyServer]) -> None:
    server = start_valkey()
    client: Redis = connect(server.url)
    async with log_at(server.url) as log:
        await log.append([full()])
        await client.xadd("acr-decisions:{log}:entries", {"decision": "{}"})
        await client.xadd("acr-decisions:{log}:entries", {"other": "x"})
        await log.append([plain(decision_id="dec-2")])
        for text in ("[]", '["a", 1, 0.5]', '["a", "b", 2]', '["a", "b", true, 1]', "x"):
            await client.xadd("acr-decisions:{log}:feedback", {"feedback": text})
        await log.append_feedback(Feedback("dec-2", "acme", 1.0))
        assert await scores(log) == {"dec-2": 1.0}
        reader = Reader(log)
        await reader.open()
        page = await reader.page()
        assert page == [full(), plain(decision_id="dec-2", score=1.0)]
        assert reader.unreadable == 2
    await client.aclose()


async def test_a_store_that_does_not_answer_is_one_error(start_valkey: Callable[..., ValkeyServer]) -> None:
    server = start_valkey()
    async with log_at(server.url) as log:
        server.kill()
        for ask in (
            log.append([plain()]),
            log.append_feedback(Feedback("d", "t", 1.0)),
            log.after(BEGINNING),
            log.last(1),
            log.length(),
            log.feedback_after(BEGINNING),
        ):
            with pytest.raises(LogUnavailable, match="did not answer"):
                await ask


async def test_caps_hold_on_a_server(start_valkey: Callable[..., ValkeyServer]) -> None:
    server = start_valkey()
    client: Redis = connect(server.url)
    async with log_at(server.url, max_entries=500, max_feedback=50) as log:
        writer = DecisionWriter(log, gather_s=0.0, max_waiting=10_000)
        for number in range(3_000):
            writer.add(full(decision_id=f"dec-{number}"))
        await until(lambda: writer.counts.written == 3_000)
        assert 500 <= await client.xlen("acr-decisions:{log}:entries") <= 600
        assert 0 < await client.memory_usage("acr-decisions:{log}:entries") < 2_000_000
        await writer.aclose()
    await client.aclose()


async def test_the_log_on_a_cluster(cluster: list[ValkeyServer]) -> None:
    for number, node in enumerate(cluster):
        client = connect(url_of(node), command_timeout_s=10.0, decode_responses=False)
        log = RedisDecisionLog(Batches(client))
        await log.append([plain(decision_id=f"dec-{number}-{i}") for i in range(5)])
        await log.append_feedback(Feedback(f"dec-{number}-0", "acme", 0.5))
        assert await log.length() == 5 * (number + 1)
        assert len(await log.after(BEGINNING)) == 5 * (number + 1)
        assert len(await scores(log)) == number + 1
        await client.aclose()
