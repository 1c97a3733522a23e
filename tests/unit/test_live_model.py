"""A replica follows the published classifier, between requests, and keeps the last good one."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from classifier.artifact import Artifact, save
from classifier.errors import ArmsDiffer, ArtifactIncompatible
from classifier.forward import Meaning
from classifier.packed import Packed, pack
from policies.changing import Changes
from policies.errors import StoreUnavailable
from policies.memory_versions import MemoryVersions
from policies.versions import CLASSIFIERS
from router.following import RETRY_S
from router.live_model import BootModel, LiveModel, boot_model, check_arms
from router.model_publishing import ModelPublisher
from tests.artifacts import ARMS, packed, write_artifact
from tests.unit.test_artifact import some_weights

OTHER_ARMS = ("a", "b", "c")


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Store(MemoryVersions):
    """May fail, and counts who reads documents."""

    def __init__(self) -> None:
        super().__init__(shelf=CLASSIFIERS)
        self.fails: BaseException | None = None
        self.read = 0

    async def document(self, version: str) -> str:
        self.read += 1
        if self.fails is not None:
            raise self.fails
        return await super().document(version)

    def replace(self, version: str, text: str) -> None:
        self._documents[version] = text

    def lose(self) -> None:
        self._documents.clear()


class Replica:
    def __init__(self, store: Store, boot: Packed) -> None:
        self.store = store
        self.clock = Clock()
        self.applied: list[str] = []
        self.refusals = 0
        self.cannot: Exception | None = None
        self.threads: list[str] = []
        self.arms: Collection[str] = ARMS
        self.live = LiveModel(
            store,
            BootModel(boot.artifact, boot.text),
            self._prepare,
            arms=self._arms,
            replica="r1",
            refused=self._refused,
            clock=self.clock,
        )

    async def _arms(self) -> Collection[str]:
        return self.arms

    def _prepare(self, artifact: Artifact) -> Callable[[], None]:
        self.threads.append(threading.current_thread().name)
        if self.cannot is not None:
            raise self.cannot
        return lambda: self.applied.append(artifact.version)

    def _refused(self) -> None:
        self.refusals += 1

    async def look(self, after_s: float = 0.5) -> str:
        self.clock.now_s += after_s
        await self.live.look()
        return self.live.in_force

    async def report(self) -> Any:
        (report,) = await self.store.reports()
        return report


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
def replica(boot: Packed) -> Replica:
    return Replica(Store(), boot)


@pytest.fixture
def publisher(replica: Replica) -> ModelPublisher:
    return ModelPublisher(replica.store, "ann")


async def publish(publisher: ModelPublisher, what: Packed) -> None:
    await publisher.promote(what, None, force=True)


async def test_the_app_config_s_decides_until_one_is_published(
    replica: Replica, publisher: ModelPublisher, boot: Packed, one: Packed
) -> None:
    assert await replica.look() == boot.version
    assert replica.applied == []
    await publish(publisher, one)
    assert await replica.look() == one.version
    assert replica.applied == [one.version]
    report = await replica.report()
    assert (report.boot, report.current, report.number, report.trouble) == (
        boot.version,
        one.version,
        1,
        None,
    )


async def test_nothing_is_read_again_while_nothing_changes(
    replica: Replica, publisher: ModelPublisher, one: Packed
) -> None:
    await publish(publisher, one)
    for _ in range(5):
        await replica.look(10.0)
    assert replica.store.read == 1
    assert len(replica.applied) == 1


async def test_the_way_back_is_followed(
    replica: Replica, publisher: ModelPublisher, boot: Packed, one: Packed, two: Packed
) -> None:
    for each in (one, two):
        await publish(publisher, each)
        await replica.look()
    await publisher.rollback()
    assert await replica.look() == one.version
    await publisher.rollback("boot")
    assert await replica.look() == boot.version
    assert replica.applied == [one.version, two.version, one.version, boot.version]


async def test_the_app_config_s_own_can_be_compared_with(replica: Replica, boot: Packed) -> None:
    await replica.look()
    assert await replica.store.document(boot.version) == boot.text


async def test_publishing_what_the_app_config_names_reads_nothing(
    replica: Replica, publisher: ModelPublisher, boot: Packed
) -> None:
    await publish(publisher, boot)
    assert await replica.look() == boot.version
    assert (replica.store.read, replica.applied) == (0, [])


@pytest.mark.parametrize("damage", ["nonsense", "card", "lost", "arms"])
async def test_a_bad_one_is_told_once_counted_once_and_the_last_good_stays(
    replica: Replica,
    publisher: ModelPublisher,
    one: Packed,
    two: Packed,
    damage: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await publish(publisher, one)
    await replica.look()
    await publish(publisher, two)
    said = "cannot be unpacked"
    if damage == "nonsense":
        replica.store.replace(two.version, "nonsense")
    elif damage == "card":
        said = "differs from MANIFEST.json"
        told = json.loads(two.text)
        replica.store.replace(two.version, json.dumps({**told, "card.json": told["card.json"] + " "}))
    elif damage == "lost":
        said = f"no classifier {two.version}"
        replica.store.lose()
    else:
        said = "is for other arms"
        replica.arms = OTHER_ARMS
    with caplog.at_level(logging.WARNING):
        for _ in range(30):
            assert await replica.look() == one.version
    warnings = [record.message for record in caplog.records]
    assert len(warnings) == 1
    assert said in warnings[0]
    assert f"classifier {one.version} stays in force" in warnings[0]
    assert replica.refusals == 1
    assert said in (await replica.report()).trouble
    replica.arms = ARMS
    replica.store.replace(two.version, two.text)
    assert await replica.look(RETRY_S) == two.version
    assert replica.live.trouble is None


@pytest.mark.parametrize(
    "cannot",
    [
        ArtifactIncompatible("the sentence encoder is not installed"),
        OSError("the sentence encoder cannot be read"),
        ImportError("the sentence encoder needs torch"),
        MemoryError("the sentence encoder is too large"),
    ],
)
async def test_one_that_cannot_run_here_is_refused(
    replica: Replica, publisher: ModelPublisher, one: Packed, two: Packed, cannot: Exception
) -> None:
    await publish(publisher, one)
    await replica.look()
    await publish(publisher, two)
    replica.cannot = cannot
    assert await replica.look() == one.version
    report = await replica.report()
    assert report.current == one.version
    assert "the sentence encoder" in report.trouble
    assert replica.refusals == 1
    replica.cannot = None
    assert await replica.look(RETRY_S) == two.version
    assert replica.applied == [one.version, two.version]


async def test_a_store_that_cannot_give_it_is_asked_again(
    replica: Replica, publisher: ModelPublisher, boot: Packed, one: Packed
) -> None:
    await publish(publisher, one)
    replica.store.fails = StoreUnavailable("away")
    assert await replica.look() == boot.version
    assert replica.refusals == 0  # nothing is wrong with the classifier
    replica.store.fails = None
    assert await replica.look() == one.version


async def test_a_reader_that_breaks_does_not_break_the_service(
    replica: Replica, publisher: ModelPublisher, boot: Packed, one: Packed
) -> None:
    await publish(publisher, one)
    replica.store.fails = ZeroDivisionError("a bug")
    assert await replica.look() == boot.version
    assert replica.live.trouble == "reading it failed (ZeroDivisionError)"


async def test_it_is_unpacked_beside_the_event_loop(
    replica: Replica, publisher: ModelPublisher, one: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []

    def slow(text: str, version: str) -> Packed:
        threads.append(threading.current_thread().name)
        return one

    monkeypatch.setattr("router.live_model.unpack", slow)
    await publish(publisher, one)
    assert await replica.look() == one.version
    assert len(threads) == len(replica.threads) == 1
    assert threading.main_thread().name not in threads + replica.threads


async def test_another_app_config_s_own_decides_only_where_none_is_published(
    replica: Replica, publisher: ModelPublisher, one: Packed, two: Packed
) -> None:
    await replica.look()
    replica.live.boots(BootModel(two.artifact, two.text))
    assert await replica.look() == two.version
    assert replica.applied == [two.version]
    await publish(publisher, one)
    assert await replica.look() == one.version
    assert await replica.store.document(two.version) == two.text
    replica.live.boots(BootModel(replica.live._artifact))
    assert await replica.look() == one.version


async def test_it_follows_in_the_background_and_ends(
    replica: Replica, publisher: ModelPublisher, boot: Packed, one: Packed, two: Packed
) -> None:
    closed: list[bool] = []

    async def close() -> None:
        closed.append(True)

    live = LiveModel(
        replica.store,
        BootModel(boot.artifact),
        lambda _: lambda: None,
        arms=replica._arms,
        replica="r2",
        close=close,
        poll_s=0.005,
    )
    await publish(publisher, one)
    await live.start()
    assert live.in_force == one.version  # from its first request on
    await publish(publisher, two)
    async with asyncio.timeout(20):
        while live.in_force != two.version:
            await asyncio.sleep(0.005)
    await live.aclose()
    assert closed == [True]
    await publish(publisher, one)
    await asyncio.sleep(0.05)
    assert live.in_force == two.version


async def test_cancelling_a_round_is_not_swallowed(
    replica: Replica, publisher: ModelPublisher, one: Packed
) -> None:
    await publish(publisher, one)
    replica.store.fails = asyncio.CancelledError()
    with pytest.raises(asyncio.CancelledError):
        await replica.live.look()


@pytest.mark.parametrize(
    ("arms", "fits"),
    [
        (ARMS, True),
        (ARMS[:2], True),
        ((ARMS[0],), True),
        ((ARMS[0], "x", "y"), False),
        (OTHER_ARMS, False),
        (("x",), False),
    ],
)
def test_which_policies_a_classifier_is_for(one: Packed, arms: tuple[str, ...], fits: bool) -> None:
    if fits:
        check_arms(one.artifact, arms)
        return
    with pytest.raises(ArmsDiffer, match=f"{one.version} is for other arms"):
        check_arms(one.artifact, arms)


def test_an_app_config_s_own_that_is_too_large_to_be_published_still_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = write_artifact(tmp_path / "large")
    monkeypatch.setattr("classifier.packed.MAX_PACKED_BYTES", 1000)
    boot = boot_model(tmp_path / "large")
    assert (boot.artifact.version, boot.text) == (version, None)


def test_changes_of_classifiers_are_those_of_policies() -> None:
    assert issubclass(ModelPublisher, Changes)


async def test_one_whose_sentence_encoder_is_missing_is_refused(
    replica: Replica, publisher: ModelPublisher, boot: Packed, tmp_path: Path
) -> None:
    said = Meaning("an encoder of tomorrow", "0" * 64, np.zeros(4), np.zeros((4, len(ARMS))))
    save(tmp_path / "asks", ARMS, replace(some_weights(3), meaning=said), {})
    await publish(publisher, pack(tmp_path / "asks"))
    assert await replica.look() == boot.version
    assert (replica.refusals, replica.applied) == (1, [])
    assert "an encoder of tomorrow" in (await replica.report()).trouble
