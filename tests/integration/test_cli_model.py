"""`acr model` against a real store: what it says, what it changes, and its exit codes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from typer.testing import CliRunner

from classifier.artifact import load
from classifier.packed import pack
from classifier.tables import OutcomeTable
from policies.loader import parse_policy
from policies.published import Published
from policies.publishing import Document, Publisher
from policies.redis_versions import RedisVersions
from policies.store import connect
from policies.versions import CLASSIFIERS, Report
from router.cli.main import app
from router.model_publishing import ModelPublisher
from tests.artifacts import fitted, write_artifact
from tests.outcomes import TRUTH, row, sums
from tests.servers import ValkeyServer

SECRET = "the service's secret"
POLICY = """\
version: 1
name: sums
arms:
  direct/direct: {tier: direct, strategy: direct}
  direct/cot: {tier: direct, strategy: cot}
  direct/sc8: {tier: direct, strategy: self_consistency, max_samples: 8}
tenants:
  demo: {}
"""
TURNED = {arm: (p[2], p[1], p[0]) for arm, p in TRUTH.items()}
ARMS = ("direct/cot", "direct/direct", "direct/sc8")

T = TypeVar("T")


def outcomes(count: int, seed: int, truth: Mapping[str, tuple[float, float, float]] = TRUTH) -> OutcomeTable:
    """Of arms that a policy can have."""
    return replace(sums(count, seed, truth), arms=ARMS)


WHOLE = outcomes(700, 5)


def lines(table: OutcomeTable) -> str:
    rows = [
        row(item.prompt_id, item.messages[0]["content"], arm, table.scores[i, a], table.tokens[i, a])
        for i, item in enumerate(table.items)
        for a, arm in enumerate(table.arms)
    ]
    return "\n".join(rows) + "\n"


@dataclass(frozen=True)
class Models:
    """Classifiers on disk: `good` was trained with a fifth of `table` held out, `bad` on other outcomes."""

    table: Path
    good: Path
    bad: Path
    other: Path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    root = tmp_path_factory.mktemp("models")
    (root / "table.jsonl").write_text(lines(WHOLE))
    kept, held = WHOLE.hold_back(0.2)
    unseen = ~np.isin(held.fingerprints(), np.union1d(kept.fingerprints(), _bad().fingerprints()))
    assert np.count_nonzero(unseen) >= 60
    fitted(root / "good", kept)
    fitted(root / "bad", _bad())
    write_artifact(root / "other", 3, ("a", "b", "c"))
    return Models(root / "table.jsonl", root / "good", root / "bad", root / "other")


def _bad() -> OutcomeTable:
    return outcomes(300, 6, TURNED)


@dataclass
class Store:
    server: ValkeyServer

    def run(self, *arguments: object, code: int = 0, group: str = "model") -> str:
        """What `acr model ...` prints; one line on stderr where it fails, besides notes and figures."""
        result = CliRunner().invoke(app, [group, *map(str, arguments)])
        assert result.exit_code == code, (result.output, result.exception)
        assert "Traceback" not in result.output
        return result.output

    def ask(self, question: Callable[[RedisVersions], Coroutine[Any, Any, T]], secret: str = SECRET) -> T:
        async def asked() -> T:
            client = connect(self.server.url, decode_responses=False)
            try:
                return await question(RedisVersions(client, secret.encode(), CLASSIFIERS))
            finally:
                await client.aclose()

        return asyncio.run(asked())

    @property
    def state(self) -> Published:
        async def read(versions: RedisVersions) -> Published:
            return versions.opened(await versions.raw_state())

        return self.ask(read)

    def publish(self, directory: Path) -> str:
        packed = pack(directory)
        self.ask(lambda versions: ModelPublisher(versions, "bob").promote(packed, None, force=True))
        return packed.version

    def replica(self, boot: Path, **fields: Any) -> str:
        """A replica that runs its app config's classifier, and says so."""
        packed = pack(boot)

        async def tell(versions: RedisVersions) -> None:
            told = {"replica": "r1", "number": 0, "boot": packed.version, "current": packed.version, **fields}
            await versions.report(Report(**told))
            await versions.keep(packed.version, packed.text)

        self.ask(tell)
        return packed.version

    def policy(self, text: str = POLICY) -> None:
        async def push() -> None:
            client = connect(self.server.url, decode_responses=False)
            publisher = Publisher(RedisVersions(client, SECRET.encode()), "ann")
            await publisher.push(Document(parse_policy(text, "policy.yaml"), text))
            await client.aclose()

        asyncio.run(push())


@pytest.fixture
def store(
    tmp_path: Path, start_valkey: Callable[..., ValkeyServer], monkeypatch: pytest.MonkeyPatch
) -> Store:
    server = start_valkey("--appendonly", "no")
    monkeypatch.setenv("ACR_STATE_DIR", str(tmp_path / ".acr"))
    monkeypatch.setenv("REDIS_URL", server.url)
    monkeypatch.setenv("ACR_CACHE_SECRET", SECRET)
    monkeypatch.setenv("COLUMNS", "200")
    # Not `width`: putting that back would fix it for the tests that follow.
    monkeypatch.setattr("router.cli.client.console._width", 200)
    return Store(server)


def test_the_better_one_is_promoted_with_its_figures_and_rolled_back(store: Store, models: Models) -> None:
    store.policy()
    bad, good = store.publish(models.bad), load(models.good).version
    said = store.run("promote", models.good, "--table", models.table, "--note", "more sums", "--wait-s", 0)
    assert f"{good} against {bad}" in said
    for part in ("Brier score", "log loss", "frontier area", "were left out", "no replica runs now"):
        assert part in said
    assert f"{good} (3 arms, 2026-02-02) is live (change 2)" in said
    assert f"before it: {bad}; `acr model rollback` brings it back" in said
    assert store.state.current == good
    listed = store.run("list")
    assert f"live: {good} since 2" in listed
    assert "more sums" in listed
    assert "Brier 0." in listed
    again = store.run("promote", models.good, "--table", models.table, "--wait-s", 0)
    assert f"{good} (3 arms, 2026-02-02) is live already; nothing was changed" in again
    assert f"{bad} is live" in store.run("rollback", "--wait-s", 0)
    assert f"{good} is live" in store.run("rollback", good[:5], "--wait-s", 0)
    assert f"before it: {good}; `acr model rollback {good}` brings" in store.run("rollback", "--wait-s", 0)
    store.run("rollback", good, "--wait-s", 0)
    assert "boot is live" in store.run("rollback", "boot", "--wait-s", 0)
    assert "rolled back to it at" in store.run("list")


def test_a_worse_one_stays_out_unless_it_is_forced(store: Store, models: Models) -> None:
    good, bad = store.publish(models.good), load(models.bad).version
    said = store.run("promote", models.bad, "--table", models.table, code=1)
    assert f"{bad} stays out: it is worse than the live one (Brier score" in said
    assert store.state.current == good
    forced = store.run("promote", models.bad, "--table", models.table, "--force", "--wait-s", 0)
    assert "Brier score" in forced
    assert store.state.current == bad


def test_the_app_config_s_own_is_what_is_compared_with_at_first(store: Store, models: Models) -> None:
    boot = store.replica(models.bad, number=1)
    store.policy()
    said = store.run("promote", models.good, "--table", models.table, "--wait-s", 0)
    assert f"against {boot}" in said
    assert "1 of 1 replicas follow" in said
    assert "live, boot" not in store.run("list")
    assert "boot" in store.run("list")


def test_one_refusal_a_reason_and_nothing_changes(
    store: Store, models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.policy()
    bad = store.publish(models.bad)
    table = ["--table", models.table]
    assert "--table" in store.run("promote", models.good, code=2)
    assert "is for other arms" in store.run("promote", models.other, *table, code=2)
    assert "is for other arms" in store.run("promote", models.other, "--force", code=2)
    assert "acr train" in store.run("promote", tmp_path / "nothing", *table, code=2)
    assert "does not exist" in store.run("promote", models.good, "--table", tmp_path / "no.jsonl", code=2)
    (tmp_path / "seen.jsonl").write_text(lines(WHOLE.hold_back(0.2)[0]))
    nothing = store.run("promote", models.good, "--table", tmp_path / "seen.jsonl", code=2)
    assert "prompts are new to both classifiers, and 40 are needed" in nothing
    store.run("promote", write(tmp_path / "pickled", "model.pkl", models), *table, code=2)
    store.run("promote", write(tmp_path / "joblib", "model.joblib", models), *table, code=2)
    damaged = write(tmp_path / "damaged", None, models)
    (damaged / "card.json").write_bytes((damaged / "card.json").read_bytes() + b" ")
    assert "differs from MANIFEST.json" in store.run("promote", damaged, *table, code=2)
    monkeypatch.setattr("classifier.packed.MAX_PACKED_BYTES", 1000)
    assert "are published; train on fewer" in store.run("promote", models.good, *table, code=2)
    assert (store.state.current, store.state.number) == (bad, 1)


def write(directory: Path, extra: str | None, models: Models) -> Path:
    """A copy of the good one, with a file that may run code."""
    directory.mkdir()
    for file in models.good.iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    if extra:
        (directory / extra).write_bytes(b"cposix\nsystem\n(S'true'\ntR.")
    return directory


def test_arms_that_would_be_lost_are_named(store: Store, models: Models, tmp_path: Path) -> None:
    store.policy()
    bad = store.publish(models.bad)
    fitted(tmp_path / "two", WHOLE.hold_back(0.2)[0].only_arms(ARMS[:2]))
    said = store.run("promote", tmp_path / "two", "--table", models.table, code=2)
    assert f"does not know direct/sc8, which {bad} predicts and the policy uses" in said
    store.policy(
        POLICY.replace("  direct/sc8: {tier: direct, strategy: self_consistency, max_samples: 8}\n", "")
    )
    store.run("promote", tmp_path / "two", "--table", models.table, "--wait-s", 0)
    assert store.state.current == load(tmp_path / "two").version


def test_a_live_one_that_is_not_known_is_told_and_force_goes_on(store: Store, models: Models) -> None:
    store.replica(models.bad)
    store.replica(models.other, replica="r2")
    table = ["--table", models.table]
    said = store.run("promote", models.good, *table, code=1)
    assert "replicas begin with several: " in said
    assert "--force promotes without comparing" in said
    store.publish(models.bad)
    store.ask(lambda versions: versions.keep(load(models.bad).version, "nonsense"))
    assert "cannot be unpacked" in store.run("promote", models.good, *table, code=1)
    store.run("promote", models.good, *table, "--force", "--wait-s", 0, code=1)  # the replicas are made up
    assert store.state.current == load(models.good).version


def test_a_replica_that_refuses_is_named_with_its_reason(store: Store, models: Models) -> None:
    store.replica(models.bad, number=1, trouble="the classifier is for other arms")
    said = store.run("promote", models.good, "--force", "--wait-s", 0, code=1)
    assert "r1: the classifier is for other arms" in said


def test_show_and_json(store: Store, models: Models, tmp_path: Path) -> None:
    good = store.publish(models.good)
    shown = store.run("show")
    assert f"classifier {good}" in shown
    assert "direct/sc8" in shown
    assert json.loads(store.run("show", good[:4], "--json"))["arms"] == list(WHOLE.arms)
    assert "written: " in store.run("show", "--out", tmp_path / "back")
    assert load(tmp_path / "back").version == good
    for file in models.good.iterdir():
        assert (tmp_path / "back" / file.name).read_bytes() == file.read_bytes()
    assert "holds other files" in store.run("show", "--out", tmp_path, code=2)
    told = json.loads(store.run("list", "--json"))
    assert told["published"]["current"] == good
    assert [each["version"] for each in told["versions"]] == [good]
    assert told["history"][0]["by"] == "bob"
    assert "no classifier ffffff" in store.run("show", "ffffff", code=2)


def test_a_version_that_cannot_be_loaded_is_listed_and_not_rolled_back_to(
    store: Store, models: Models
) -> None:
    good = store.publish(models.good)
    store.ask(lambda versions: versions.keep("0" * 12, "nonsense"))
    assert "cannot be unpacked" in store.run("list")
    assert "cannot be unpacked" in store.run("rollback", "0000", code=2)
    assert store.state.current == good


def test_strangers_and_stores_that_are_away(
    store: Store, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = pack(models.bad)
    store.ask(
        lambda versions: ModelPublisher(versions, "eve").promote(packed, None, force=True), secret="guess"
    )
    table = ["--table", models.table]
    assert "not sealed" in store.run("list", code=2)
    assert "not sealed" in store.run("promote", models.good, *table, code=2)
    store.run("promote", models.good, "--force", "--wait-s", 0)
    assert store.state.current == load(models.good).version
    store.server.kill()
    assert "did not answer" in store.run("promote", models.good, *table, code=2)
    monkeypatch.delenv("ACR_CACHE_SECRET")
    assert "no secret" in store.run("list", code=2)


def test_train_holds_out_what_promote_compares_on(store: Store, tmp_path: Path) -> None:
    table = outcomes(240, 8)
    (tmp_path / "t.jsonl").write_text(lines(table))
    done = CliRunner().invoke(
        app, ["train", str(tmp_path / "t.jsonl"), "--out", str(tmp_path / "m"), "--hold-out", "0.3"]
    )
    assert done.exit_code == 0, done.output
    kept, held = table.hold_back(0.3)
    assert f"{len(held.items)} prompts held out, for `acr model promote" in done.output
    made = load(tmp_path / "m")
    assert made.seen(kept) == len(kept.items)
    assert set(made.weights.seen) == set(kept.fingerprints())
    assert made.seen(held) == 0
