"""`acr policy` against a real store: what it says, what it changes, and its exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from typer.testing import CliRunner

from policies.keys import LOCAL_KEY_ID
from policies.loader import parse_policy
from policies.published import Canary, Published
from policies.redis_versions import RedisVersions
from policies.store import connect
from policies.versions import Report, Tally
from router.cli.main import app
from router.state import RunRecord, StateDir
from tests.servers import ValkeyServer

SECRET = "the service's secret"
TEXT = """\
version: 1
name: {name}
arms:
  direct/direct: {{tier: direct, strategy: direct}}
defaults: {{quality_target: {target}}}
tenants:
  acme: {{keys: [{keys}]}}
  demo: {{}}
"""

T = TypeVar("T")


def text(name: str, target: float = 0.5, keys: int = 1) -> str:
    entries = ", ".join(f"{{id: k{n}, sha256: {n:064x}}}" for n in range(1, keys + 1))
    return TEXT.format(name=name, target=target, keys=entries)


def version(content: str) -> str:
    return parse_policy(content, "x").version


@dataclass
class Store:
    folder: Path
    server: ValkeyServer

    def run(self, *arguments: str, code: int = 0) -> str:
        """What `acr policy ...` prints; one line on stderr where it fails."""
        result = CliRunner().invoke(app, ["policy", *arguments])
        assert result.exit_code == code, (result.output, result.exception)
        if code and not result.stdout:
            assert result.stderr.count("\n") == 1, result.stderr
        return result.output

    def file(self, content: str, name: str = "policy.yaml") -> str:
        path = self.folder / name
        path.write_text(content)
        return str(path)

    def push(self, content: str, *options: str, code: int = 0) -> str:
        return self.run("push", self.file(content), "--wait-s", "0", *options, code=code)

    def ask(self, question: Callable[[RedisVersions], Coroutine[Any, Any, T]]) -> T:
        async def asked() -> T:
            client = connect(self.server.url, decode_responses=False)
            try:
                return await question(RedisVersions(client, SECRET.encode()))
            finally:
                await client.aclose()

        return asyncio.run(asked())

    @property
    def state(self) -> Published:
        async def read(versions: RedisVersions) -> Published:
            return versions.opened(await versions.raw_state())

        return self.ask(read)

    def report(self, **fields: Any) -> None:
        report = Report(**{"replica": "r1", "number": 0, "boot": "b" * 12, "current": "b" * 12, **fields})
        self.ask(lambda versions: versions.report(report))


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
    return Store(tmp_path, server)


A, B, C = text("a"), text("b", 0.6), text("c", 0.7)


def test_push_list_show_and_rollback(store: Store) -> None:
    assert "nothing was published" in store.run("list")
    said = store.push(A, "--note", "the first")
    assert f"{version(A)} (a) is current (change 1)" in said
    assert "before it: boot" in said
    assert "no replica runs now" in said
    assert f"{version(A)} (a) is current already; nothing was changed" in store.push(A)
    store.push(B)
    listed = store.run("list")
    assert f"current: {version(B)}" in listed
    assert "the first" in listed
    assert store.run("show", "live") == B
    assert store.run("show", version(A)[:5]) == A
    assert f"{version(A)} is current" in store.run("rollback", "--wait-s", "0")
    assert store.run("show") == A
    assert "boot is current" in store.run("rollback", "--wait-s", "0")
    assert "rolled back to it" in store.run("list")
    assert "nothing was in force before" in store.run("rollback", code=1)
    store.run("rollback", version(B)[:4], "--wait-s", "0")
    assert store.state.current == version(B)


def test_a_canary_says_who_falls_on_its_side_and_is_promoted(store: Store) -> None:
    store.push(A)
    many = text("b", 0.6, keys=40)
    said = store.push(many, "--canary", "25", "--tenant", "acme")
    canary = Canary(version=version(many), percent=25, tenant="acme")
    taken = [f"k{n}" for n in range(1, 41) if canary.takes("acme", f"k{n}")]
    assert f"acme: {', '.join(taken)} of 40 keys" in said
    assert ("and this machine's own key" in said) == canary.takes("acme", LOCAL_KEY_ID)
    assert "demo:" not in said
    assert store.state.canary == canary
    assert f"canary: {version(many)} for 25 % of acme keys" in store.run("list")
    store.run("promote", "--wait-s", "0")
    assert (store.state.current, store.state.canary) == (version(many), None)
    assert "no canary to promote" in store.run("promote", code=1)
    store.push(C, "--canary", "1")
    assert f"the canary {version(C)} has ended" in store.run("rollback", "--wait-s", "0")
    assert store.state.current == version(many)


def test_a_shadow_and_its_counts(store: Store) -> None:
    assert "there is no shadow" in store.run("shadow", code=2)
    store.push(A)
    store.push(B, "--shadow")
    assert "no request planned yet" in store.run("shadow")
    tally = Tally(planned=200, differ=50, refused=1, tokens=4000, shadow_tokens=5000)
    store.ask(lambda versions: versions.tally(version(B), "r1", tally))
    said = store.run("shadow")
    assert "200 requests planned, 25.0% would begin with another arm (1 be refused)" in said
    assert "5,000 tokens planned instead of 4,000" in said
    assert json.loads(store.run("shadow", "--json"))["planned"] == 200
    assert "has ended" in store.run("shadow", "--stop")
    assert store.state.shadow is None
    assert "current already" in store.push(A, "--shadow", code=1)


def test_push_waits_for_the_replicas_and_names_those_that_do_not_follow(store: Store) -> None:
    store.report()
    said = store.run("push", store.file(A), "--wait-s", "0.2", code=1)
    assert "0 of 1 replicas follow" in said
    assert "r1: has not taken it yet" in said
    store.report(number=1, trouble="policy x:1: arms: no tier can run any of them")
    assert "no tier can run any of them" in store.push(A, code=1)
    follower = threading.Timer(0.3, lambda: store.report(number=2, current=version(B)))
    follower.start()
    said = store.run("push", store.file(B), "--wait-s", "30")
    follower.join()
    assert "1 of 1 replicas follow" in said


def test_diff_says_what_changes_in_meaning(store: Store) -> None:
    one, two = store.file(A, "a.yaml"), store.file(B, "b.yaml")
    assert store.run("diff", one, one) == f"no differences: {version(A)} and {version(A)} mean the same\n"
    said = store.run("diff", one, two, code=1)
    assert "~ name: a -> b" in said
    assert "~ defaults.quality_target: 0.5 -> 0.6  (and so for acme, demo)" in said
    assert said.count("\n") == 2
    (name, target) = json.loads(store.run("diff", one, two, "--json", code=1))
    assert (name["field"], target["also"]) == ("name", ["acme", "demo"])
    store.push(A)
    assert "0.5 -> 0.6" in store.run("diff", "live", two, code=1)
    assert "no differences" in store.run("diff", "live", version(A)[:6])
    store.run("rollback", "--wait-s", "0")
    assert "no replica runs; name a version" in store.run("diff", "live", two, code=2)
    store.ask(lambda versions: versions.keep("b" * 12, B))
    store.report()
    assert "no differences" in store.run("diff", "live", two)
    assert "neither a file nor a version" in store.run("diff", "nothing.yaml", two, code=2)
    assert "keeps no policy ffff" in store.run("diff", "ffff", two, code=2)
    assert "broken.yaml:1: " in store.run("diff", store.file("x", "broken.yaml"), two, code=2)


def test_diff_of_files_needs_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    for name, content in (("a.yaml", A), ("b.yaml", B)):
        (tmp_path / name).write_text(content)
    result = CliRunner().invoke(app, ["policy", "diff", str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")])
    assert result.exit_code == 1


def test_wrong_usage_and_wrong_files(store: Store) -> None:
    assert "policy.yaml:1: " in store.push("nonsense", code=1)
    assert "No such file" in store.run("push", str(store.folder / "none.yaml"), code=2)
    assert "No such file" in store.run("check", str(store.folder / "none.yaml"), code=2)
    assert "has no tenant nobody" in store.push(A, "--canary", "5", "--tenant", "nobody", code=2)
    assert "--tenant is for --canary" in store.push(A, "--tenant", "acme", code=2)
    assert "--shadow goes with neither" in store.push(A, "--shadow", "--canary", "5", code=2)
    for percent in ("0", "101", "nan", "-1"):
        store.push(A, "--canary", percent, code=2)
    assert "keeps no policy" in store.run("rollback", "abcd", code=2)
    assert store.state == Published()


def test_without_a_store_or_a_secret_it_says_what_to_do(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "not a Redis URL" in store.push(A, "--redis-url", "nonsense", code=2).replace(
        "no Redis", "not a Redis"
    )
    assert "did not answer" in store.push(A, "--redis-url", "redis://127.0.0.1:1/0", code=2)
    monkeypatch.delenv("ACR_CACHE_SECRET")
    assert "set ACR_CACHE_SECRET" in store.push(A, code=2)
    monkeypatch.delenv("REDIS_URL")
    assert "acr serve" in store.push(A, code=2)


def test_a_local_stack_s_store_and_secret_are_found(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACR_CACHE_SECRET")
    monkeypatch.delenv("REDIS_URL")
    state = StateDir()
    with state.claimed():
        record = state.new_run()
        state.write_record(RunRecord(record.stack_id, record.pid, record.run_dir, redis_url=store.server.url))
        secret = state.secret()
    store.push(A)
    monkeypatch.setenv("ACR_CACHE_SECRET", secret)
    monkeypatch.setenv("REDIS_URL", store.server.url)
    assert f"current: {version(A)}" in store.run("list")


def test_another_secret_is_told_and_force_begins_anew(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.push(A)
    monkeypatch.setenv("ACR_CACHE_SECRET", "another")
    for command in ("list", "rollback", "show", "promote"):
        assert "not sealed with this ACR_CACHE_SECRET" in store.run(command, code=2)
    assert "--force" in store.push(B, code=2)
    store.push(B, "--force")
    assert f"current: {version(B)}" in store.run("list")


def test_a_frozen_store_is_trouble_in_one_line(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.cli.policy_store.TIMEOUT_S", 0.2)
    store.server.freeze()
    try:
        assert "did not answer" in store.run("list", code=2)
        assert "did not answer" in store.push(A, code=2)
    finally:
        store.server.resume()


def test_list_tells_it_all_as_json(store: Store) -> None:
    store.push(A, "--note", "why")
    store.report(number=1, current=version(A), left_out=("search/mcts",))
    told = json.loads(store.run("list", "--json"))
    assert told["published"]["current"] == version(A)
    assert told["history"][0]["note"] == "why"
    assert told["replicas"][0]["left_out"] == ["search/mcts"]
    assert f"replica r1: {version(A)}, 1 arms left out" in store.run("list")


def test_watch_follows_until_ctrl_c(store: Store, tmp_path: Path) -> None:
    log = tmp_path / "watched"
    with log.open("w") as out:
        watch = subprocess.Popen(
            [sys.executable, "-u", "-m", "router.cli.main", "policy", "watch"],
            stdout=out,
            stderr=out,
            env=dict(os.environ),
            # A test run in the background of a shell ignores SIGINT, and its children would too.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def says(said: str) -> None:
        deadline = time.monotonic() + 60
        while said not in log.read_text():
            assert time.monotonic() < deadline, (said, log.read_text())
            assert watch.poll() is None, log.read_text()
            time.sleep(0.05)

    try:
        says("nothing was published")
        store.push(A)
        says(f"current: {version(A)}")
        store.report(number=1, current=version(A))
        says(f"replica r1: {version(A)}")
        store.push(B, "--canary", "10", code=1)
        says(f"canary: {version(B)} for 10 % of all keys")
        store.run("rollback", "--wait-s", "0", code=1)
        says(f"ended: canary: {version(B)}")
        store.server.freeze()
        says("did not answer")
        store.server.resume()
        says("the store answers again")
        says("replica r1: gone")
        watch.send_signal(signal.SIGINT)
        assert watch.wait(30) == 0
        assert "Traceback" not in log.read_text()
    finally:
        store.server.resume()
        watch.kill()
        watch.wait()


def test_watch_may_end_by_itself(store: Store) -> None:
    assert "nothing was published" in store.run("watch", "--seconds", "0")
