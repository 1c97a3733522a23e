from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from classifier.artifact import MANIFEST, Artifact, load, save
from classifier.deployment import ClassifierDeployment
from classifier.errors import ArtifactError
from classifier.features.matrix import feature_matrix
from classifier.model import ArmClassifier
from tests.outcomes import sums

TABLE = sums(60)
TALK = [{"role": "user", "content": "What is 3 + 4?"}]


def write(directory: Path, distrust: float) -> str:
    model = ArmClassifier(
        arms=TABLE.arms, cs=(0.01,), pulls=(10.0,), lexical_scales=(1.0,), distrust=distrust
    )
    x = feature_matrix([item.messages for item in TABLE.items])
    return save(directory, TABLE.arms, model.fit(x, TABLE.scores, TABLE.tokens).export(), {})


def replica(path: Path | None) -> Any:
    """An instance of the class inside the deployment, without a cluster."""
    return ClassifierDeployment.func_or_class(None if path is None else str(path))


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("artifacts")
    write(root / "one", 1.0)
    write(root / "two", 0.0)
    return root


async def test_predicts_small_and_large_alike(artifacts: Path) -> None:
    deployment = replica(artifacts / "one")
    small = await deployment.predict(TALK)
    large = await deployment.predict([{"role": "user", "content": "word " * 200_000}])
    assert set(small.p) == set(large.p) == set(TABLE.arms)
    assert small.version == await deployment.version()


async def test_a_new_artifact_is_taken_while_serving(artifacts: Path) -> None:
    deployment = replica(artifacts / "one")
    before = await deployment.version()
    await deployment.reconfigure({"artifact": str(artifacts / "two")})
    assert await deployment.version() != before
    await deployment.check_health()


@pytest.mark.parametrize(
    "config",
    [None, 7, [], {}, {"artifact": None}, {"artifact": 3}, {"artifact": "nowhere"}, {"artifact": "a\x00b"}],
)
async def test_a_bad_one_is_not_and_nothing_is_raised(
    artifacts: Path, config: object, caplog: pytest.LogCaptureFixture
) -> None:
    deployment = replica(artifacts / "one")
    before = await deployment.version()
    with caplog.at_level(logging.WARNING):
        await deployment.reconfigure(config)
    assert await deployment.version() == before
    assert caplog.records
    await deployment.check_health()


async def test_a_damaged_one_is_not_taken(artifacts: Path, tmp_path: Path) -> None:
    write(tmp_path / "bad", 0.5)
    (tmp_path / "bad" / MANIFEST).write_text("{}")
    deployment = replica(artifacts / "one")
    before = await deployment.version()
    await deployment.reconfigure({"artifact": str(tmp_path / "bad")})
    assert await deployment.version() == before


def test_a_replica_without_a_classifier_does_not_come_up(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        replica(tmp_path / "nothing")


async def test_health_is_a_whole_prediction(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deployment = replica(artifacts / "one")
    monkeypatch.setattr(type(deployment._predictor), "arms", property(lambda self: ("other",)))
    with pytest.raises(RuntimeError, match="arms"):
        await deployment.check_health()


Prepare = Callable[[Artifact], Callable[[], None]]


class Live:
    """Hands in what the test publishes."""

    def __init__(self, prepare: Prepare, refused: Callable[[], None]) -> None:
        self.prepare, self.refused = prepare, refused
        self.started = 0
        self.boot: Booted | None = None

    async def start(self) -> None:
        self.started += 1

    def boots(self, boot: Booted) -> None:
        self.boot = boot


@dataclass
class Booted:
    artifact: Artifact


class Following:
    def __init__(self, follows: bool = True) -> None:
        self._follows = follows
        self.live: Live | None = None

    def boot(self, place: str | None = None) -> Booted:
        return Booted(load(str(place)))

    def on_serve(self, boot: Booted, prepare: Prepare, refused: Callable[[], None]) -> Live | None:
        self.live = Live(prepare, refused) if self._follows else None
        return self.live


async def test_what_is_published_is_followed_from_the_first_health_check_on(artifacts: Path) -> None:
    following = Following()
    deployment = ClassifierDeployment.func_or_class(str(artifacts / "one"), following)
    assert following.live is None
    for _ in range(3):
        await deployment.check_health()
    live = following.live
    assert live is not None
    assert live.started == 1
    new = load(artifacts / "two")
    swap = live.prepare(new)
    assert await deployment.version() != new.version
    swap()
    assert (await deployment.predict(TALK)).version == await deployment.version() == new.version
    live.refused()  # counted by Ray; nothing else happens
    assert await deployment.version() == new.version


async def test_another_app_config_s_own_is_left_to_what_follows(artifacts: Path) -> None:
    following = Following()
    deployment = ClassifierDeployment.func_or_class(str(artifacts / "one"), following)
    await deployment.check_health()
    before = await deployment.version()
    await deployment.reconfigure({"artifact": str(artifacts / "two")})
    live = following.live
    assert live is not None
    assert live.boot is not None
    assert live.boot.artifact.version == load(artifacts / "two").version
    assert await deployment.version() == before  # one that is published goes on deciding
    await deployment.reconfigure({"artifact": "nowhere"})
    assert live.boot.artifact.version == load(artifacts / "two").version


async def test_without_anything_to_follow_the_app_config_s_own_is_changed(artifacts: Path) -> None:
    deployment = ClassifierDeployment.func_or_class(str(artifacts / "one"), Following(follows=False))
    await deployment.check_health()
    await deployment.reconfigure({"artifact": str(artifacts / "two")})
    assert await deployment.version() == load(artifacts / "two").version
