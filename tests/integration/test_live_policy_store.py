"""Replicas of the whole service on a real store: how fast they follow, and what no trouble may do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from backends.runner import TierRunner
from policies.errors import StoreUnavailable
from policies.keys import hash_key
from policies.loader import parse_policy
from policies.publishing import Document, Publisher
from policies.redis_versions import RedisVersions
from policies.store import connect
from router.assembly import Assembly
from router.config import AppConfig
from router.profiles import fake_config
from router.tier_factory import TierFactory
from router.tiers import InProcessTiers
from tests.servers import ValkeyServer

SECRET = "a shared secret"
KEY, LATER_KEY = "acr-key", "acr-later"
TEXT = """\
version: 1
name: {name}
arms:
  direct/direct: {{tier: direct, strategy: direct, temperature: 0}}
tenants:
  demo:
    quality_target: {target}
    on_store_error: allow
    keys: [{{id: k1, sha256: {digest}}}]
    budgets: {{day: 100000000}}
"""


def document(name: str, target: float = 0.5, key: str = KEY) -> Document:
    text = TEXT.format(name=name, target=target, digest=hash_key(key))
    return Document(parse_policy(text, "policy.yaml"), text)


BOOT, A, B = document("boot"), document("a"), document("b")


class Replica:
    """One ingress replica's assembly, spoken to over HTTP as ASGI has it."""

    def __init__(self, assembly: Assembly) -> None:
        self.assembly = assembly
        transport = httpx.ASGITransport(assembly.app())
        self.client = httpx.AsyncClient(transport=transport, base_url="http://replica")

    async def ask(self, key: str = KEY, **fields: Any) -> httpx.Response:
        body = {"model": "auto", "messages": [{"role": "user", "content": "What is 1 + 1?"}], **fields}
        return await self.client.post(
            "/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"}
        )

    async def version(self) -> str:
        reply = await self.ask()
        assert reply.status_code == 200, reply.text
        return reply.headers["x-acr-policy"]

    async def becomes(self, version: str, within_s: float = 30.0) -> float:
        """Seconds until replies name the version."""
        began_s = time.monotonic()
        while await self.version() != version:
            assert time.monotonic() - began_s < within_s, "the version did not become live"
            await asyncio.sleep(0.01)
        return time.monotonic() - began_s


@asynccontextmanager
async def replica(config: AppConfig) -> AsyncIterator[Replica]:
    runners: dict[str, TierRunner] = {name: await TierFactory(name, config)() for name in config.tiers}
    for runner in runners.values():
        await runner.start()
    assembly = Assembly(config, InProcessTiers(runners))
    await assembly.start()
    try:
        yield Replica(assembly)
    finally:
        await assembly.aclose()
        for runner in runners.values():
            await runner.aclose()


@pytest.fixture
def server(start_valkey: Callable[..., ValkeyServer], monkeypatch: pytest.MonkeyPatch) -> ValkeyServer:
    server = start_valkey("--appendonly", "yes")
    monkeypatch.setenv("ACR_CACHE_SECRET", SECRET)
    for name in ("REDIS_URL", "CACHE_REDIS_URL"):
        monkeypatch.setenv(name, server.url)
    return server


@pytest.fixture
def config(server: ValkeyServer, tmp_path: Path) -> AppConfig:
    path = tmp_path / "boot.yaml"
    path.write_text(BOOT.text)
    return fake_config().model_copy(update={"policy": str(path)})


@asynccontextmanager
async def publishing(server: ValkeyServer) -> AsyncIterator[Publisher]:
    client = connect(server.url, decode_responses=False)
    yield Publisher(RedisVersions(client, SECRET.encode()), "ann")
    await client.aclose()


async def test_a_push_is_live_on_every_replica_in_time(server: ValkeyServer, config: AppConfig) -> None:
    async with replica(config) as one, replica(config) as two, publishing(server) as publisher:
        assert await one.version() == await two.version() == BOOT.version
        await publisher.push(A)
        took_s = await asyncio.gather(one.becomes(A.version), two.becomes(A.version))
        assert max(took_s) < 20, took_s  # 2 s, on a machine that has time
        async with replica(config) as late:
            assert await late.version() == A.version
        await publisher.rollback()
        await asyncio.gather(one.becomes(BOOT.version), two.becomes(BOOT.version))


async def test_a_key_that_a_push_removes_is_refused(server: ValkeyServer, config: AppConfig) -> None:
    async with replica(config) as one, publishing(server) as publisher:
        assert (await one.ask()).status_code == 200
        await publisher.push(document("keys", key=LATER_KEY))
        async with asyncio.timeout(30):
            while (await one.ask()).status_code != 401:
                await asyncio.sleep(0.01)
            assert (await one.ask(LATER_KEY)).status_code == 200
        assert (await one.ask()).json()["error"]["code"] == "invalid_api_key"


async def test_what_is_published_outlives_a_killed_store_and_a_replica(
    server: ValkeyServer, config: AppConfig
) -> None:
    async with replica(config) as one, publishing(server) as publisher:
        await publisher.push(A)
        await one.becomes(A.version)
        await asyncio.sleep(1.2)  # appended to disk once a second
        server.kill()
        for _ in range(3):
            assert await one.version() == A.version
        server.start()
        await publisher.push(B)
        await one.becomes(B.version)
    async with replica(config) as again:
        assert await again.version() == B.version


async def test_a_frozen_store_keeps_what_is_in_force(server: ValkeyServer, config: AppConfig) -> None:
    async with replica(config) as one, publishing(server) as publisher:
        await publisher.push(A)
        await one.becomes(A.version)
        server.freeze()
        await asyncio.sleep(1.5)
        server.resume()
        await publisher.push(B)
        await one.becomes(B.version)


async def test_a_stranger_in_the_store_installs_nothing(server: ValkeyServer, config: AppConfig) -> None:
    client = connect(server.url, decode_responses=False)
    stranger = Publisher(RedisVersions(client, b"guess"), "eve")
    async with replica(config) as one, publishing(server) as publisher:
        await publisher.push(A)
        await one.becomes(A.version)
        await stranger.push(document("theirs", key="their key"), force=True)
        live = one.assembly.live
        assert live is not None
        async with asyncio.timeout(30):
            while live.trouble is None:
                await asyncio.sleep(0.01)
        assert "not sealed" in live.trouble
        assert await one.version() == A.version
        assert (await one.ask("their key")).status_code == 401
        for junk in (b"", b"junk"):
            await client.set("acr-policy:{published}:state", junk)
            await live.look()
            assert await one.version() == A.version
        await client.delete("acr-policy:{published}:state")
        await client.rpush("acr-policy:{published}:state", "a list")
        await live.look()
        assert live.trouble is not None
        assert await one.version() == A.version
    await client.aclose()


async def test_a_full_store_takes_no_push_and_harms_nobody(server: ValkeyServer, config: AppConfig) -> None:
    client = connect(server.url)
    async with replica(config) as one, publishing(server) as publisher:
        await publisher.push(A)
        await one.becomes(A.version)
        await client.config_set("maxmemory", 1)
        with pytest.raises(StoreUnavailable):
            await publisher.push(B)
        live = one.assembly.live
        assert live is not None
        await live.look()
        assert live.trouble is None
        assert await one.version() == A.version
        await client.config_set("maxmemory", 0)
        await publisher.push(B)
        await one.becomes(B.version)
    await client.aclose()


async def test_without_the_shared_secret_the_app_config_s_policy_decides(
    server: ValkeyServer, config: AppConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("ACR_CACHE_SECRET")
    async with replica(config) as one, publishing(server) as publisher:
        await publisher.push(A)
        await asyncio.sleep(0.7)
        assert await one.version() == BOOT.version
    assert "published policies are not followed" in caplog.text


async def test_a_store_that_is_away_at_the_start_is_followed_later(
    server: ValkeyServer, config: AppConfig
) -> None:
    async with publishing(server) as publisher:
        await publisher.push(A)
    await asyncio.sleep(1.2)
    server.kill()
    async with replica(config) as one:
        assert await one.version() == BOOT.version
        server.start()
        await one.becomes(A.version)


async def test_refusals_name_the_version_that_refused(server: ValkeyServer, config: AppConfig) -> None:
    async with replica(config) as one:
        reply = await one.ask(max_completion_tokens=10**6)
        assert (reply.status_code, reply.headers["x-acr-policy"]) == (400, BOOT.version)
