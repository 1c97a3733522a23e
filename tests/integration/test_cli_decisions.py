"""`acr decisions` on a real store: what it writes and prints, what it does meanwhile, how it refuses."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from router.cli.decisions import since_when
from router.cli.main import app
from router.decisions.files import read_decisions, to_line
from router.decisions.log import Feedback
from router.decisions.record import Decision
from router.decisions.redis_log import RedisDecisionLog
from tests.decisions import full, plain
from tests.integration.test_decision_log_store import log_at
from tests.servers import ValkeyServer

pytestmark = pytest.mark.integration

ENTRIES = "acr-decisions:{log}:entries"


@pytest.fixture
def server(start_valkey: Callable[..., ValkeyServer]) -> ValkeyServer:
    return start_valkey()


def write(server: ValkeyServer, work: Callable[[RedisDecisionLog], Coroutine[Any, Any, None]]) -> None:
    async def go() -> None:
        async with log_at(server.url) as log:
            await work(log)

    asyncio.run(go())


def fill(server: ValkeyServer, decisions: list[Decision], feedback: list[Feedback] | None = None) -> None:
    async def both(log: RedisDecisionLog) -> None:
        for start in range(0, len(decisions), 500):
            await log.append(decisions[start : start + 500])
        for each in feedback or []:
            await log.append_feedback(each)

    write(server, both)


def run(*args: object, env: dict[str, str] | None = None) -> Result:
    quiet = {"COLUMNS": "200", "REDIS_URL": "", "ACR_STATE_DIR": "/nonexistent"}
    return CliRunner().invoke(app, ["decisions", *map(str, args)], env=quiet | (env or {}))


def raw_command(server: ValkeyServer, *command: str | bytes) -> None:
    from policies.store import connect

    async def go() -> None:
        client = connect(server.url, decode_responses=False)
        await client.execute_command(*command)
        await client.aclose()

    asyncio.run(go())


# -- export


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".parquet"])
def test_an_export_has_every_decision_with_its_feedback(
    server: ValkeyServer, tmp_path: Path, suffix: str
) -> None:
    kept = [full(decision_id="dec-1", score=None, tenant="acme"), plain(decision_id="dec-2", explored=True)]
    said = [Feedback("dec-1", "acme", 0.0), Feedback("dec-1", "acme", 0.75), Feedback("dec-9", "acme", 1.0)]
    fill(server, kept, said)
    out = tmp_path / f"log{suffix}"
    result = run("export", "--out", out, "--redis-url", server.url)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"2 decisions in {out}: 1 with feedback, 1 explored\n"
    assert result.stderr == ""
    assert list(read_decisions(out)) == [full(decision_id="dec-1", score=0.75, tenant="acme"), kept[1]]


def test_ten_thousand_decisions(server: ValkeyServer, tmp_path: Path) -> None:
    fill(server, [plain(decision_id=f"dec-{number}") for number in range(10_000)])
    out = tmp_path / "log.jsonl.gz"
    result = run("export", "--out", out, env={"REDIS_URL": server.url})
    assert result.exit_code == 0, result.output
    ids = [json.loads(line)["decision_id"] for line in gzip.decompress(out.read_bytes()).splitlines()]
    assert ids == [f"dec-{number}" for number in range(10_000)]


def test_an_export_of_one_tenant_since_a_time(server: ValkeyServer, tmp_path: Path) -> None:
    now = int(time.time() * 1000)
    hours = [plain(decision_id=f"dec-{n}", at_ms=now - n * 3_600_000, tenant="ab"[n % 2]) for n in range(6)]
    fill(server, hours)
    out = tmp_path / "log.jsonl"
    result = run("export", "--out", out, "--since", "210m", "--tenant", "b", "--redis-url", server.url)
    assert result.exit_code == 0, result.output
    assert [each.decision_id for each in read_decisions(out)] == ["dec-1", "dec-3"]


def test_replicas_whose_clocks_run_ahead_or_behind_are_exported_too(
    server: ValkeyServer, tmp_path: Path
) -> None:
    """Entries lie in the order in which the store got them; at_ms is the replica's own."""
    now = int(time.time() * 1000)
    ahead, behind = plain(decision_id="dec-1", at_ms=now + 86_400_000), plain(decision_id="dec-2", at_ms=1)
    fill(server, [ahead, behind])
    out = tmp_path / "log.jsonl"
    assert run("export", "--out", out, "--redis-url", server.url).exit_code == 0
    assert list(read_decisions(out)) == [ahead, behind]
    assert run("export", "--out", out, "--since", "1h", "--redis-url", server.url).exit_code == 0
    assert list(read_decisions(out)) == [ahead]


def test_an_empty_log_is_an_empty_file(server: ValkeyServer, tmp_path: Path) -> None:
    out = tmp_path / "log.jsonl"
    result = run("export", "--out", out, "--redis-url", server.url)
    assert result.exit_code == 0
    assert "0 decisions" in result.stdout
    assert out.read_bytes() == b""


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_junk_in_the_stream_is_left_out_and_told(server: ValkeyServer, tmp_path: Path, suffix: str) -> None:
    fill(server, [plain(decision_id="dec-1")])
    half = to_line(plain()).replace("acme", "\\ud800").encode()
    junk = [b"", b"\xff\xfe", b"{", b"[" * 100_000, b'{"decision_id": 1}', b"null", b"NaN", half]
    for value in junk:
        raw_command(server, "XADD", ENTRIES, "*", "decision", value)
    fill(server, [plain(decision_id="dec-2", tenant="ünï")])
    out = tmp_path / f"log{suffix}"
    result = run("export", "--out", out, "--redis-url", server.url)
    assert result.exit_code == 0, result.output
    assert [each.decision_id for each in read_decisions(out)] == ["dec-1", "dec-2"]
    assert "8 entries of the log are no decisions" in result.stderr
    tail = run("tail", "--json", "--seconds", 0, "--redis-url", server.url)
    assert tail.exit_code == 0, tail.output
    assert len(tail.stdout.splitlines()) == 2


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["export", "--out", "log.csv"], "log.csv names no format; let it end with .jsonl, .jsonl.gz or"),
        (["export", "--out", "no/such/folder/log.jsonl"], "no/such/folder/log.jsonl cannot be written"),
        (["export", "--out", "log.jsonl", "--since", "yesterday"], "--since 'yesterday' is no time"),
        (["export", "--out", "log.jsonl", "--since", "9" * 30 + "d"], "is no time"),
        (["export", "--out", "log.jsonl", "--redis-url", "http://x"], "that is no Redis URL"),
        (["tail", "--redis-url", "x"], "that is no Redis URL"),
    ],
)
def test_bad_input_is_one_sentence(
    server: ValkeyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], said: str
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    result = run(*args, env={"REDIS_URL": server.url})
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert list(here.iterdir()) == []


def test_without_a_store_it_says_what_to_do(tmp_path: Path) -> None:
    for args in (["export", "--out", tmp_path / "log.jsonl"], ["tail"]):
        result = run(*args)
        assert result.exit_code == 2
        assert "start the service here with `acr serve`, or set REDIS_URL" in result.stderr


def test_a_store_that_is_away_is_one_sentence_and_leaves_what_was_there(
    server: ValkeyServer, tmp_path: Path
) -> None:
    server.kill()
    out = tmp_path / "log.jsonl"
    out.write_text("an older export")
    for args in (["export", "--out", out], ["tail"]):
        result = run(*args, "--redis-url", server.url)
        assert result.exit_code == 2
        assert "the store of the decision log did not answer" in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
    assert out.read_text() == "an older export"
    assert list(tmp_path.glob("*log*")) + list(tmp_path.glob(".*")) == [out]


def test_times() -> None:
    now_s = 1_800_000_000.0
    assert since_when(None, now_s) == 0
    assert since_when("90m", now_s) == 1_799_994_600_000
    assert since_when("2026-01-31", now_s) == since_when("2026-01-31T01:00+01:00", now_s) == 1_769_817_600_000
    assert since_when("999999999d", now_s) == 0
    assert since_when("0001-01-01", now_s) == 0


# -- tail


def test_tail_begins_with_the_latest_and_their_scores(server: ValkeyServer) -> None:
    fill(
        server,
        [plain(decision_id=f"dec-{number}") for number in range(5)],
        [Feedback("dec-4", "acme", 0.25)],
    )
    result = run("tail", "-n", 2, "--seconds", 0, "--redis-url", server.url)
    assert result.exit_code == 0, result.output
    third, fourth = result.stdout.splitlines()
    assert third == "2023-11-14 22:13:20  dec-3  acme  answered"
    assert fourth == third.replace("dec-3", "dec-4") + "  score 0.25"
    assert run("tail", "-n", 0, "--seconds", 0, "--redis-url", server.url).stdout == ""


def test_tail_in_json_is_what_export_writes(server: ValkeyServer, tmp_path: Path) -> None:
    fill(server, [full(), plain(decision_id="dec-2")], [Feedback("dec-2", "acme", 1.0)])
    out = tmp_path / "log.jsonl"
    run("export", "--out", out, "--redis-url", server.url)
    result = run("tail", "--json", "--seconds", 0, "--redis-url", server.url)
    assert result.stdout == out.read_text()


def test_a_line_tells_what_was_decided(server: ValkeyServer) -> None:
    fill(server, [full(outcome="failed"), plain(decision_id="dec-2", outcome="answered", cache="hit")])
    one, two = run("tail", "--seconds", 0, "--redis-url", server.url).stdout.splitlines()
    for part in ("failed upstream_error", "direct/direct", "p 0.30", "propensity 0.95", "50 tokens"):
        assert part in one
    for part in ("confidence 0.50", "verified false", "score 0.75"):
        assert part in one
    assert two.endswith("dec-2  acme  answered  cache hit")


def test_what_a_terminal_would_obey_is_not_printed(server: ValkeyServer) -> None:
    fill(
        server,
        [plain(decision_id="dec-\x1b[31m\n", at_ms=10**15)],
        [Feedback("dec-\x1b]0;x", "a\x07", 1.0)],
    )
    said = run("tail", "--seconds", 0.6, "--redis-url", server.url)
    assert said.exit_code == 0, said.output
    assert "\x1b" not in said.stdout
    assert "dec-?[31m?" in said.stdout


def test_tail_follows_until_it_is_interrupted(server: ValkeyServer) -> None:
    """Decisions and feedback as they come, over a stream that is trimmed to nothing in between."""
    fill(server, [plain(decision_id="dec-1")])
    acr = Path(sys.executable).with_name("acr")
    tail = subprocess.Popen(
        [acr, "decisions", "tail", "--redis-url", server.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert tail.stdout is not None
    try:
        assert "dec-1" in tail.stdout.readline()
        raw_command(server, "XTRIM", ENTRIES, "MAXLEN", "0")
        raw_command(server, "XADD", ENTRIES, "*", "decision", b"junk")
        fill(server, [plain(decision_id="dec-2")])
        assert "dec-2" in tail.stdout.readline()
        fill(server, [], [Feedback("dec-2", "acme", 0.5)])
        assert tail.stdout.readline().split() == ["feedback", "dec-2", "acme", "score", "0.5"]
        tail.send_signal(signal.SIGINT)
        rest, errors = tail.communicate(timeout=60)
        assert (tail.returncode, rest) == (0, "")
        assert errors.count("\n") == 1
        assert "is no decision" in errors
    finally:
        tail.kill()
        tail.wait()


def test_tail_ends_quietly_where_nobody_reads_on(server: ValkeyServer) -> None:
    fill(server, [full(decision_id=f"dec-{number}") for number in range(2_000)])
    acr = Path(sys.executable).with_name("acr")
    command = f"{acr} decisions tail --json -n 2000 --seconds 0 --redis-url {server.url} | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, check=False)
    assert json.loads(done.stdout)["decision_id"] == "dec-0"
    assert "Traceback" not in done.stderr
