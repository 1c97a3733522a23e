"""`acr replay` as a stranger runs it: logs of a service, tables, and files that are neither."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from policies.schema import Policy
from router.cli.main import app
from router.decisions.files import to_line, write_decisions
from router.decisions.log import BEGINNING, MemoryDecisionLog
from router.decisions.record import Decision
from router.decisions.writer import DecisionWriter
from tests.replaying import DEARER, LIVE, decisions, policy
from tests.service import ACME, HARD, POLICY, request, start_service

pytestmark = pytest.mark.unit

LOG = decisions(800, seed=2)
TABLE = Path("benchmarks/data/smollm2_135m.jsonl")


def run(*args: object) -> Result:
    return CliRunner().invoke(app, ["replay", *map(str, args)])


def written(path: Path, under: Policy) -> Path:
    document = under.document.model_dump(mode="json", exclude_unset=False)
    for tenant in document["tenants"].values():
        tenant.pop("name", None)
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture
def dearer(tmp_path: Path) -> Path:
    return written(tmp_path / "dearer.yaml", DEARER)


def plain(result: Result) -> dict[str, Any]:
    def strict(name: str) -> None:
        raise AssertionError(f"{name} in JSON")

    return dict(json.loads(result.stdout, parse_constant=strict))


# -- logs


@pytest.mark.parametrize("name", ["log.jsonl", "log.jsonl.gz", "log.parquet"])
def test_json_has_stable_names(name: str, tmp_path: Path, dearer: Path) -> None:
    write_decisions(tmp_path / name, LOG)
    result = run("--log", tmp_path / name, "--policy", dearer, "--json")
    assert result.exit_code == 0, result.output
    found = plain(result)
    assert set(found) == {
        *("kind", "policy", "policy_version", "supported", "verdict", "notes", "level", "decisions"),
        *("support", "estimates", "tiers", "refusals", "degradations"),
    }
    assert (found["kind"], found["supported"], found["level"]) == ("log", True, 0.9)
    accuracy = found["estimates"]["accuracy"]
    assert set(accuracy) == {"logged", "ips", "snips", "dr", "difference", "why_not"}
    assert set(accuracy["dr"]) == {"value", "low", "high"}
    assert accuracy["dr"]["low"] < accuracy["dr"]["value"] < accuracy["dr"]["high"]
    assert found["decisions"]["read"] == found["decisions"]["replayed"] == 800
    assert 30 < found["support"]["effective_sample_size"] < 800
    assert set(found["tiers"]) == {"direct", "consistency", "search"}
    assert found["refusals"]["planned"]["value"] == 0.0


def test_people_read_the_verdict_and_get_a_plot(tmp_path: Path, dearer: Path) -> None:
    write_decisions(tmp_path / "log.jsonl", LOG)
    out = tmp_path / "new" / "out"
    result = run("--log", tmp_path / "log.jsonl", "--policy", dearer, "--out", out)
    assert result.exit_code == 0
    assert "the log supports an answer" in result.stdout
    assert "SNIPS" in result.stdout
    assert json.loads((out / "replay.json").read_text())["supported"] is True
    assert (out / "replay.png").read_bytes().startswith(b"\x89PNG")


def test_a_log_that_cannot_tell_ends_with_1_and_no_figure(tmp_path: Path, dearer: Path) -> None:
    write_decisions(tmp_path / "log.jsonl", decisions(400, live=policy(target=0.1)))
    result = run("--log", tmp_path / "log.jsonl", "--policy", dearer, "--json")
    assert result.exit_code == 1
    found = plain(result)
    assert found["supported"] is False
    assert "cannot support" in found["verdict"]
    assert found["estimates"]["tokens"]["dr"] == {"value": None, "low": None, "high": None}
    assert found["estimates"]["tokens"]["why_not"]


def test_a_smaller_budget_shows_its_refusals(tmp_path: Path) -> None:
    write_decisions(tmp_path / "log.jsonl", LOG)
    small = policy(target=0.1, more="budgets: {day: 9000}, on_low_budget: deny")
    result = run(
        "--log", tmp_path / "log.jsonl", "--policy", written(tmp_path / "small.yaml", small), "--json"
    )
    refusals = plain(result)["refusals"]
    assert 0.4 < refusals["planned"]["value"] < 0.95
    assert refusals["by_reason"] == {"BudgetExhausted": round(refusals["planned"]["value"] * 800)}


def test_one_tenant(tmp_path: Path, dearer: Path) -> None:
    write_decisions(tmp_path / "log.jsonl", [*LOG, replace(LOG[0], tenant="other")])
    found = run("--log", tmp_path / "log.jsonl", "--policy", dearer, "--tenant", "acme", "--json")
    assert plain(found)["decisions"]["other_tenants"] == 1
    refused = run("--log", tmp_path / "log.jsonl", "--policy", dearer, "--tenant", "nobody")
    assert (refused.exit_code, "no tenant 'nobody'" in refused.output) == (2, True)


# -- a log that a service made


EXPLORING = POLICY.replace(
    "quality_target: 0.8", "quality_target: 0.8\n    cache: {mode: 'off'}\n    exploration: {rate: 0.2}"
).replace("{minute: 20000, day: 100000}", "{day: 100000000}")


async def served(count: int) -> list[Decision]:
    log = MemoryDecisionLog()
    writer = DecisionWriter(log, gather_s=0.0)
    service = await start_service(p=HARD, policy=EXPLORING, decisions=writer)
    for number in range(count):
        await service.pipeline.complete(ACME, request(f"What is 3 + {number}?", allow_degrade=True))
    await writer.aclose()
    found = [each.decision for each in await log.after(BEGINNING, 10_000)]
    return [replace(each, score=float(i % 2)) for i, each in enumerate(found) if each is not None]


def test_a_service_s_own_log_is_replayed(tmp_path: Path) -> None:
    log = asyncio.run(served(250))
    assert len(log) == 250
    assert any(each.explored for each in log)
    write_decisions(tmp_path / "log.jsonl.gz", log)
    (tmp_path / "live.yaml").write_text(EXPLORING)
    result = run("--log", tmp_path / "log.jsonl.gz", "--policy", tmp_path / "live.yaml", "--json")
    assert result.exit_code == 0, result.output
    same = plain(result)
    assert same["support"]["effective_sample_size"] == pytest.approx(250)
    assert same["support"]["mended_share"] == 0.0
    for name in ("tokens", "cost_usd", "accuracy"):
        told = same["estimates"][name]
        assert told["ips"]["value"] == pytest.approx(told["logged"]["value"])
    (tmp_path / "cheap.yaml").write_text(EXPLORING.replace("quality_target: 0.8", "quality_target: 0.1"))
    other = plain(run("--log", tmp_path / "log.jsonl.gz", "--policy", tmp_path / "cheap.yaml", "--json"))
    assert other["support"]["explored_share"] == 1.0
    assert other["support"]["lacking_share"] == 0.0
    assert 0 < other["support"]["effective_sample_size"] < 250


# -- tables


def small_table(path: Path, prompts: int = 60) -> Path:
    rows = []
    for number in range(prompts):
        for arm, score, tokens in (("direct/direct", number % 2, 10), ("consistency/sc4", 1, 100)):
            rows.append(
                {
                    "prompt_id": f"q{number}",
                    "prompt": f"What is {number} + {number % 7}?",
                    "arm": arm,
                    "score": score,
                    "prompt_tokens": 10,
                    "completion_tokens": tokens,
                }
            )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_table_is_replayed_exactly(tmp_path: Path, dearer: Path) -> None:
    result = run("--log", small_table(tmp_path / "table.jsonl"), "--policy", dearer, "--json")
    assert result.exit_code == 0, result.output
    found = plain(result)
    assert (found["kind"], found["prompts"], found["tenant"]) == ("table", 60, "acme")
    shares, tokens = found["arms"], found["estimates"]["completion_tokens"]["value"]
    assert sum(shares.values()) == pytest.approx(1.0)
    assert tokens == pytest.approx(
        10 * shares.get("direct/direct", 0) + 100 * shares.get("consistency/sc4", 0)
    )
    assert any("stand as recorded" in note for note in found["notes"])
    people = run("--log", tmp_path / "table.jsonl", "--policy", dearer)
    assert "replayed on 60 prompts" in people.stdout


def test_arms_of_other_names(tmp_path: Path, dearer: Path) -> None:
    table = small_table(tmp_path / "table.jsonl")
    table.write_text(table.read_text().replace("direct/direct", "small").replace("consistency/sc4", "large"))
    refused = run("--log", table, "--policy", dearer)
    assert (refused.exit_code, "--arm" in refused.output) == (2, True)
    names = ("--arm", "direct/direct=small", "--arm", "consistency/sc4=large")
    assert run("--log", table, "--policy", dearer, *names, "--json").exit_code == 0


# -- what is neither


def line(**over: Any) -> str:
    return json.dumps(json.loads(to_line(LOG[0])) | over)


BAD = {
    "empty": b"",
    "blank lines": b"\n\n  \n",
    "binary": bytes(range(256)) * 40,
    "not JSON": b"what is this\n",
    "a list": b"[1, 2]\n",
    "other columns": b'{"a": 1}\n',
    "NaN": line(tokens=math.nan).encode(),
    "negative": line(cost_usd=-1).encode(),
    "starts that sum to 2": line(starts={"direct/direct": 1.0, "consistency/sc4": 1.0}).encode(),
    "truncated": to_line(LOG[0]).encode() + b"\n" + to_line(LOG[1]).encode()[:200],
    "cut gzip": gzip.compress("\n".join(to_line(d) for d in LOG[:200]).encode())[:-2_000],
    "parquet junk": b"PAR1" + b"x" * 500,
    "deep": b"[" * 100_000,
    "far future": line(at_ms=10**15).encode(),
    "odd arm": line(plan=["nothing/such"], starts={"nothing/such": 1.0}, rungs=[{"arm": 3}]).encode(),
    "no tenant of ours": line(tenant="nobody").encode(),
    "table with NaN": b'{"prompt_id": "a", "prompt": "b", "arm": "direct/direct", "score": NaN}\n',
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files_are_one_sentence(kind: str, tmp_path: Path, dearer: Path) -> None:
    (tmp_path / "file").write_bytes(BAD[kind])
    result = run("--log", tmp_path / "file", "--policy", dearer)
    assert result.exit_code == 2, result.output
    assert len(result.output.strip().splitlines()) == 1
    assert result.output.strip().isprintable()
    assert not isinstance(result.exception, Exception) or isinstance(result.exception, SystemExit)


def test_places_that_cannot_be_used(tmp_path: Path, dearer: Path) -> None:
    good = tmp_path / "log.jsonl"
    write_decisions(good, LOG[:100])
    (tmp_path / "occupied").write_text("")
    (tmp_path / "bad.yaml").write_text("version: [")
    for args in (
        ("--log", tmp_path / "missing", "--policy", dearer),
        ("--log", tmp_path, "--policy", dearer),
        ("--log", good, "--policy", tmp_path / "missing.yaml"),
        ("--log", good, "--policy", tmp_path / "bad.yaml"),
        ("--log", good, "--policy", dearer, "--out", tmp_path / "occupied"),
        ("--log", good, "--policy", dearer, "--effort", "herculean"),
    ):
        result = run(*args)
        assert result.exit_code == 2, (args, result.output)
        assert len(result.output.strip().splitlines()) == 1


def test_a_live_policy_s_log_of_one_decision_says_that_it_is_too_short(tmp_path: Path) -> None:
    write_decisions(tmp_path / "log.jsonl", LOG[:1])
    result = run("--log", tmp_path / "log.jsonl", "--policy", written(tmp_path / "live.yaml", LIVE))
    assert result.exit_code == 1
    assert "at least 30 are needed" in result.output
