"""Replicas of the whole service on a real store: which classifier decides, and what no trouble may do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from classifier.packed import Packed
from policies.errors import PublicationRefused, StoreUnavailable
from policies.keys import hash_key
from policies.published import Entry
from policies.redis_versions import RedisVersions
from policies.store import connect
from policies.versions import CLASSIFIERS
from router.config import AppConfig, ClassifierConfig
from router.model_publishing import ModelPublisher
from router.profiles import fake_config
from tests.artifacts import packed
from tests.integration.test_live_policy_store import KEY, SECRET, Replica, replica
from tests.servers import ValkeyServer

POLICY = f"""\
version: 1
name: models
arms:
  direct/direct: {{tier: direct, strategy: direct, temperature: 0}}
  consistency/sc8: {{tier: consistency, strategy: self_consistency, max_samples: 8, temperature: 0.7}}
tenants:
  demo:
    on_store_error: allow
    keys: [{{id: k1, sha256: {hash_key(KEY)}}}]
    budgets: {{day: 100000000}}
"""
STATE = "acr-model:{published}:state"


@pytest.fixture
def server(start_valkey: Callable[..., ValkeyServer], monkeypatch: pytest.MonkeyPatch) -> ValkeyServer:
    server = start_valkey("--appendonly", "yes", "--appendfsync", "always")
    monkeypatch.setenv("ACR_CACHE_SECRET", SECRET)
    for name in ("REDIS_URL", "CACHE_REDIS_URL"):
        monkeypatch.setenv(name, server.url)
    return server


@pytest.fixture
def boot(tmp_path: Path) -> Packed:
    return packed(tmp_path / "boot", 0)


@pytest.fixture
def one(tmp_path: Path) -> Packed:
    return packed(tmp_path / "one", 1)


@pytest.fixture
def two(tmp_path: Path) -> Packed:
    return packed(tmp_path / "two", 2)


@pytest.fixture
def config(server: ValkeyServer, tmp_path: Path, boot: Packed) -> AppConfig:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    classifier = ClassifierConfig(artifact=str(tmp_path / "boot"))
    return fake_config().model_copy(update={"policy": str(path), "classifier": classifier})


@asynccontextmanager
async def publishing(url: str, secret: str = SECRET) -> AsyncIterator[ModelPublisher]:
    client = connect(url, decode_responses=False)
    yield ModelPublisher(RedisVersions(client, secret.encode(), CLASSIFIERS), "ann")
    await client.aclose()


async def version(of: Replica) -> str:
    """Of the classifier that decided, as a decision says it."""
    reply = await of.ask(seed=1)
    assert reply.status_code == 200, reply.text
    return str(reply.json()["usage"]["compute"]["classifier_version"])


async def becomes(of: Replica, wanted: str) -> None:
    async with asyncio.timeout(60):
        while await version(of) != wanted:
            await asyncio.sleep(0.02)


async def troubled(of: Replica, said: str) -> None:
    model = of.assembly.model
    assert model is not None
    async with asyncio.timeout(60):
        while said not in (model.trouble or ""):
            await asyncio.sleep(0.02)


async def test_a_promotion_is_live_on_every_replica_and_on_one_that_joins_late(
    server: ValkeyServer, config: AppConfig, boot: Packed, one: Packed
) -> None:
    async with replica(config) as a, replica(config) as b, publishing(server.url) as publisher:
        assert await version(a) == await version(b) == boot.version
        await publisher.promote(one, None)
        await asyncio.gather(becomes(a, one.version), becomes(b, one.version))
        async with replica(config) as late:
            assert await version(late) == one.version  # with its first request
        await publisher.rollback()
        await asyncio.gather(becomes(a, boot.version), becomes(b, boot.version))


async def test_no_request_fails_and_none_has_two_classifiers_while_it_changes(
    server: ValkeyServer, config: AppConfig, boot: Packed, one: Packed, two: Packed
) -> None:
    async with replica(config) as a, publishing(server.url) as publisher:
        seen: list[str] = []
        done = False

        async def traffic() -> None:
            while not done:
                seen.append(await version(a))

        asking = [asyncio.create_task(traffic()) for _ in range(4)]
        await publisher.promote(one, None)
        await becomes(a, one.version)
        await publisher.promote(two, one.version)
        await becomes(a, two.version)
        await publisher.rollback()
        await becomes(a, one.version)
        done = True
        await asyncio.gather(*asking)
        assert set(seen) <= {boot.version, one.version, two.version}
        assert {one.version, two.version} <= set(seen)


async def test_of_two_operators_at_once_one_is_told_to_compare_again(
    server: ValkeyServer, config: AppConfig, one: Packed, two: Packed
) -> None:
    async with publishing(server.url) as ann, publishing(server.url) as bob:
        done = await asyncio.gather(ann.promote(one, None), bob.promote(two, None), return_exceptions=True)
        refused = [each for each in done if isinstance(each, BaseException)]
        assert len(refused) == 1
        assert isinstance(refused[0], PublicationRefused)
        assert "has become live meanwhile, and the comparison was with boot" in str(refused[0])
        assert not (await ann.promote(one if isinstance(done[1], BaseException) else two, None)).changed
    async with replica(config) as a:
        assert await version(a) == (one if isinstance(done[1], BaseException) else two).version


class Dying(RedisVersions):
    """The server is killed at one of the commands: before it is sent, or when it has run and nobody hears."""

    def __init__(self, client: Any, server: ValkeyServer, at: int, ran: bool) -> None:
        super().__init__(client, SECRET.encode(), CLASSIFIERS)
        self._server, self._left, self._ran = server, at, ran

    async def _heard(self, command: Awaitable[Any]) -> Any:
        self._left -= 1
        if self._left != 0:
            return await super()._heard(command)
        if self._ran:
            await super()._heard(command)
        self._server.kill()
        if self._ran:
            raise StoreUnavailable("died")
        return await super()._heard(command)


@pytest.mark.parametrize("ran", [False, True])
@pytest.mark.parametrize("at", [1, 2, 3, 4])  # state, time, versions, commit
async def test_a_store_that_dies_under_a_promotion_has_the_old_one_or_the_whole_new_one(
    server: ValkeyServer, config: AppConfig, boot: Packed, one: Packed, at: int, ran: bool
) -> None:
    client = connect(server.url, decode_responses=False)
    with pytest.raises(StoreUnavailable):
        await ModelPublisher(Dying(client, server, at, ran), "ann").promote(one, None)
    server.start()
    async with publishing(server.url) as publisher, replica(config) as a:
        committed = at == 4 and ran
        assert await version(a) == (one if committed else boot).version
        # whoever is told that it is unknown may run the command again
        assert (await publisher.promote(one, None)).changed is not committed
        await becomes(a, one.version)
    await client.aclose()


async def test_a_corrupt_or_foreign_one_is_refused_and_the_last_good_one_answers(
    server: ValkeyServer,
    config: AppConfig,
    one: Packed,
    two: Packed,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = packed(tmp_path / "other", 3, ("a", "b", "c"))
    client = connect(server.url, decode_responses=False)
    versions = RedisVersions(client, SECRET.encode(), CLASSIFIERS)
    async with replica(config) as a, publishing(server.url) as publisher:
        await publisher.promote(one, None)
        await becomes(a, one.version)
        await publisher.promote(other, one.version)
        await troubled(a, "is for other arms")
        assert await version(a) == one.version
        raw = await versions.raw_state()
        state = versions.opened(raw).pushed(two.version).dated(9, 2**50)
        entry = Entry(number=9, at_ms=2**50, by="x", action="promote", version=two.version)
        broken = json.dumps({**json.loads(two.text), "card.json": "{}"})
        assert await versions.commit(raw, state, entry, (two.version, broken))
        await troubled(a, "differs from MANIFEST.json")
        assert await version(a) == one.version
        async with replica(config) as late:
            assert await version(late) != two.version
        (report, *_) = await versions.reports()
        assert "differs from MANIFEST.json" in str(report.trouble)
    assert f"classifier {one.version} stays in force" in caplog.text
    await client.aclose()


async def test_a_stranger_in_the_store_installs_nothing(
    server: ValkeyServer, config: AppConfig, one: Packed, two: Packed
) -> None:
    client = connect(server.url, decode_responses=False)
    async with replica(config) as a, publishing(server.url) as publisher:
        await publisher.promote(one, None)
        await becomes(a, one.version)
        async with publishing(server.url, "guess") as stranger:
            await stranger.promote(two, None, force=True)
        await troubled(a, "not sealed")
        assert await version(a) == one.version
        for junk in (b"", b"junk", b"\0" * 100):
            await client.set(STATE, junk)
            model = a.assembly.model
            assert model is not None
            await model.look()
            assert await version(a) == one.version
    await client.aclose()


async def test_a_replica_starts_with_its_own_while_the_store_is_away(
    server: ValkeyServer, config: AppConfig, boot: Packed, one: Packed
) -> None:
    async with publishing(server.url) as publisher:
        await publisher.promote(one, None)
    server.kill()
    async with replica(config) as a:
        assert await version(a) == boot.version
        server.start()
        await becomes(a, one.version)
        server.freeze()
        assert await version(a) == one.version
        server.resume()


async def test_a_full_store_takes_no_promotion_and_harms_nobody(
    server: ValkeyServer, config: AppConfig, one: Packed, two: Packed
) -> None:
    client = connect(server.url)
    async with replica(config) as a, publishing(server.url) as publisher:
        await publisher.promote(one, None)
        await becomes(a, one.version)
        await client.config_set("maxmemory", 1)
        with pytest.raises(StoreUnavailable):
            await publisher.promote(two, one.version)
        assert await version(a) == one.version
        await client.config_set("maxmemory", 0)
        await publisher.promote(two, one.version)
        await becomes(a, two.version)
    await client.aclose()
