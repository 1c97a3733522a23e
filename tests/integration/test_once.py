"""Idempotency-Keys through whole replicas over one store: one run, one charge, whoever leaves or dies."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from policies.memory_ledger import InMemoryLedger
from router.http.app import create_app
from router.http.settings import HttpSettings
from router.idempotency import RedisIdempotency
from tests.fakes_http import Exchange
from tests.replicas import Replica, start_replica, until_true
from tests.servers import ValkeyServer
from tests.service import KEY, SECRET

SETTINGS = HttpSettings(first_event_s=0.02, heartbeat_s=0.02, coalesce_s=0.01)
# Not cacheable: what is told again is the key's doing.
BODY: dict[str, Any] = {
    "model": "auto",
    "messages": [{"role": "user", "content": "What is 3 + 4?"}],
    "temperature": 0.7,
    "max_completion_tokens": 64,
}
STREAM = BODY | {"stream": True, "stream_options": {"include_usage": True}}


class Ingress:
    """A replica with its HTTP application."""

    def __init__(self, replica: Replica, prefix: str) -> None:
        self.replica = replica
        self.gate = replica.gate
        store = RedisIdempotency(replica.client, SECRET, f"{prefix}once:")
        self.app = create_app(replica.pipeline, settings=SETTINGS, idempotency=store)

    def ask(
        self, body: dict[str, Any] = BODY, key: str = "k1", **headers: str
    ) -> tuple[Exchange, asyncio.Task[None]]:
        given = {"authorization": f"Bearer {KEY}", "idempotency-key": key, **headers}
        exchange = Exchange(json.dumps(body).encode(), headers=given)
        app = self.app(exchange.scope, exchange.receive, exchange.send)
        return exchange, asyncio.create_task(app)

    async def answer(self, body: dict[str, Any] = BODY, key: str = "k1", **headers: str) -> Exchange:
        exchange, task = self.ask(body, key, **headers)
        async with asyncio.timeout(30):
            await task
        return exchange

    async def charged(self) -> int:
        """Tokens that the tenant was charged, once nothing is held."""
        service = self.replica.service
        await until_true(lambda: _settled(service))
        return (await service.gauges())["minute"].used


async def _settled(service: Any) -> bool:
    return all(gauge.held == 0 for gauge in (await service.gauges()).values())


Start = Callable[..., Awaitable[Ingress]]


@pytest.fixture
def prefix() -> str:
    return f"test:{uuid4().hex}:"


@pytest.fixture
async def start(valkey_url: str, prefix: str) -> AsyncIterator[Start]:
    """Starts ingresses that share a store and a ledger."""
    started: list[Ingress] = []
    ledger = InMemoryLedger()

    async def start_one(url: str = valkey_url, **more: Any) -> Ingress:
        started.append(Ingress(await start_replica(url, prefix, ledger=ledger, **more), prefix))
        return started[-1]

    yield start_one
    for ingress in started:
        ingress.gate.open.set()
        await ingress.app.state.once.aclose()
        await ingress.replica.aclose()


def tokens(exchange: Exchange) -> int:
    return int(json.loads(exchange.body)["usage"]["total_tokens"])


@pytest.mark.parametrize("body", [BODY, STREAM])
async def test_one_run_one_charge_and_the_same_bytes_on_every_replica(start: Start, body: dict[str, Any]):
    one, two = await start(), await start()
    one.gate.open.set()
    first = await one.answer(body)
    charged = await one.charged()
    assert first.status == 200
    assert charged > 0
    for ingress in (one, two, one):
        again = await ingress.answer(body)
        assert again.status == 200
        assert again.body == first.body
        assert again.headers["idempotent-replayed"] == "true"
    assert (one.gate.runs, two.gate.runs) == (1, 0)
    assert await one.charged() == charged


async def test_two_replicas_racing_run_once(start: Start):
    one, two = await start(), await start()
    asked = [ingress.ask() for _ in range(10) for ingress in (one, two)]
    await until_true(lambda: sum(task.done() for _, task in asked) == 19)
    one.gate.open.set()
    two.gate.open.set()
    await asyncio.gather(*(task for _, task in asked))
    statuses = sorted(exchange.status or 0 for exchange, _ in asked)
    assert statuses == [200] + [409] * 19
    (first,) = [exchange for exchange, _ in asked if exchange.status == 200]
    assert one.gate.runs + two.gate.runs == 1
    again = await two.answer()
    assert again.body == first.body
    assert await one.charged() == tokens(first)


@pytest.mark.parametrize("body", [BODY, STREAM])
async def test_a_client_that_left_and_comes_back_gets_the_one_runs_answer(start: Start, body: dict[str, Any]):
    one, two = await start(), await start()
    left, task = one.ask(body)
    await one.gate.began.wait()
    left.leave()
    await task
    assert left.status in (None, 200)  # a stream may have begun
    early = await two.answer(body)
    assert early.status == 409
    assert early.headers["x-should-retry"] == "true"
    one.gate.open.set()
    back = await _until_answered(two, body)
    assert b"Answer: 7" in back.body
    assert (one.gate.runs, two.gate.runs) == (1, 0)
    charged = await one.charged()
    assert (await one.answer(body)).body == back.body
    assert await one.charged() == charged > 0


async def _until_answered(ingress: Ingress, body: dict[str, Any] = BODY, key: str = "k1") -> Exchange:
    async with asyncio.timeout(30):
        while (back := await ingress.answer(body, key)).status == 409:
            await asyncio.sleep(0.02)
    return back


async def test_another_body_is_refused_everywhere(start: Start):
    one, two = await start(), await start()
    _, running = one.ask()
    await one.gate.began.wait()
    assert (await two.answer(BODY | {"seed": 1})).status == 422
    one.gate.open.set()
    await running
    for ingress in (one, two):
        refused = await ingress.answer(BODY | {"seed": 1})
        assert refused.status == 422
        assert refused.headers["x-should-retry"] == "false"
        assert (await ingress.answer(STREAM)).status == 422
    assert two.gate.runs == 0


@pytest.mark.parametrize(
    "bad",
    [BODY | {"temperature": "hot"}, BODY | {"model": "nope"}, BODY | {"compute": {"max_total_tokens": 2}}],
)
async def test_a_refused_request_does_not_spend_its_key(start: Start, bad: dict[str, Any]):
    one = await start()
    one.gate.open.set()
    refused = await one.answer(bad)
    assert refused.status in (400, 404, 429)
    assert (await one.answer()).status == 200


async def test_a_failed_run_does_not_spend_its_key(start: Start):
    one, two = await start(), await start()
    from router.errors import UpstreamFailed

    one.gate.failure = UpstreamFailed("Died.")
    one.gate.open.set()
    two.gate.open.set()
    assert (await one.answer()).status == 502
    good = await two.answer()
    assert good.status == 200
    assert "idempotent-replayed" not in good.headers
    assert await one.charged() == tokens(good)


async def test_a_killed_replica_frees_its_key_within_its_time(start: Start, valkey_url: str, prefix: str):
    program = (
        "import asyncio, sys\n"
        "from tests.integration.test_once import Ingress\n"
        "from tests.replicas import start_replica\n"
        "async def main():\n"
        "    ingress = Ingress(await start_replica(sys.argv[1], sys.argv[2]), sys.argv[2])\n"
        "    _, task = ingress.ask()\n"
        "    await ingress.gate.began.wait()\n"
        "    print('runs', flush=True)\n"
        "    await task\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, valkey_url, prefix,
        stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    try:
        assert process.stdout is not None
        async with asyncio.timeout(120):
            assert await process.stdout.readline() == b"runs\n"
        one = await start()
        one.gate.open.set()
        # Past the time that an unrenewed key is held for: the run lives, and says so.
        lives_until = time.monotonic() + 12.0
        while time.monotonic() < lives_until:
            assert (await one.answer()).status == 409
            await asyncio.sleep(0.5)
        process.send_signal(signal.SIGKILL)
        await process.wait()
        killed_at = time.monotonic()
        back = await _until_answered(one)
        assert back.status == 200
        assert time.monotonic() - killed_at < 13.0
        assert one.gate.runs == 1
        assert await one.charged() == tokens(back)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_without_the_store_a_key_is_refused_and_nothing_is_run(start: Start, tmp_path: Path):
    one = await start(f"unix://{tmp_path}/nobody.sock")
    one.gate.open.set()
    refused = await one.answer()
    assert refused.status == 503
    assert refused.headers["x-should-retry"] == "true"
    assert one.gate.runs == 0
    assert await one.charged() == 0


async def test_a_store_that_dies_in_mid_run_does_not_cost_the_caller_the_answer(
    start: Start, start_valkey: Callable[..., ValkeyServer]
):
    server = start_valkey("--appendonly", "yes", "--appendfsync", "always")
    one = await start(server.url, timeout_s=0.3)
    first, task = one.ask()
    await one.gate.began.wait()
    server.kill()
    one.gate.open.set()
    async with asyncio.timeout(30):
        await task
    assert first.status == 200
    assert (await one.answer()).status == 503
    server.start()
    again = await _until_answered(one)  # it is told to the store as soon as that is back
    assert again.body == first.body
    assert one.gate.runs == 1


async def test_a_frozen_store_refuses_in_time_and_forgets_what_it_was_asked(
    start: Start, start_valkey: Callable[..., ValkeyServer]
):
    """The mark of a refused request may be set once the store is back; nobody must wait long for it."""
    server = start_valkey()
    one = await start(server.url, timeout_s=0.3)
    one.gate.open.set()
    assert (await one.answer(key="warm")).status == 200
    server.freeze()
    began = time.monotonic()
    assert (await one.answer()).status == 503
    assert time.monotonic() - began < 5.0
    server.resume()
    back = await _until_answered(one)
    assert back.status == 200
    assert one.gate.runs == 2


async def test_a_cached_answer_under_a_key_is_told_again_as_it_was(start: Start):
    """A hit is the key's answer too: its bytes stay, though a fresh hit would have another id."""
    one = await start()
    one.gate.open.set()
    body = BODY | {"temperature": 0}
    await one.answer(body, "k1")
    hit = await one.answer(body, "k2")
    assert hit.headers["x-acr-cache"] == "hit"
    again = await one.answer(body, "k2")
    assert again.body == hit.body
    assert again.headers["x-acr-cache"] == "hit"
    assert one.gate.runs == 1
