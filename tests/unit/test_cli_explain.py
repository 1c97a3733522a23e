"""`acr explain` without a service: what it prints, what it computes, how it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from backends.cost import cost
from backends.hardware import H100, LLAMA3_8B
from backends.task import Spend
from policies.arm_spec import STRATEGIES
from router.cli import ask
from router.cli.main import app

CONFIG = """
tiers:
  direct:
    engine: {kind: openai_http, base_url: http://127.0.0.1:9/v1, model: small, context_tokens: 4096}
    hardware: L4
    shape: Llama-3-8B
  consistency:
    engine: {kind: llamacpp, model_path: /models/big.gguf, cache_type_k: q8_0, prompt_cache_mib: 0}
    hardware: H100
    shape: Llama-3-8B
    usd_per_hour: 6.0
  search:
    engine: {kind: openai_http, base_url: http://127.0.0.1:9/v1, model: deep, context_tokens: 4096}
    hardware: H200
    shape: Llama-3-70B
"""
POLICY = """
version: 1
name: tiny
arms:
  direct/direct: {tier: direct, strategy: direct}
  consistency/sc2: {tier: consistency, strategy: self_consistency, max_samples: 2, think: false}
  search/beam: {tier: search, strategy: beam, max_samples: 4}
tenants: {acme: {}, other: {budgets: {day: 300}, on_low_budget: deny}}
"""


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    (tmp_path / "app.yaml").write_text(CONFIG)
    (tmp_path / "policy.yaml").write_text(POLICY)
    return ["--config", str(tmp_path / "app.yaml"), "--policy", str(tmp_path / "policy.yaml")]


def explained(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["explain", *arguments], env={"COLUMNS": "80"})


def told(*arguments: str) -> dict[str, Any]:
    result = explained(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def test_without_a_question_it_shows_tiers_arms_and_costs() -> None:
    result = explained()
    assert (result.exit_code, result.stderr) == (0, "")
    for word in ("llamacpp", "SmolLM2-135M-Instruct", "flash_attention: auto", "search/mcts", "FLOPs"):
        assert word in result.stdout
    for strategy in STRATEGIES:
        assert strategy in result.stdout
    assert "p(success)" not in result.stdout
    assert max(len(line.rstrip()) for line in result.stdout.splitlines()) <= 80


def test_costs_are_those_of_the_model_and_the_hardware(files: list[str]) -> None:
    said = told(*files, "--prompt-tokens", "1000", "--max-completion-tokens", "200")
    direct, vote, beam = said["arms"]
    assert (direct["most_tokens"], direct["held_tokens"]) == (1200, 1200)
    # By hand in test_cost.py: an 8B call on an L4; 131,072 bytes of keys and values a token.
    assert direct["most"]["gpu_seconds"] == pytest.approx(0.134900 + 200 * 0.0675199, rel=1e-4)
    assert direct["most"]["kv_bytes"] == 1200 * 131_072
    assert vote["most_tokens"] == 2400
    two = cost(Spend(2000, 0, 400, calls=2), LLAMA3_8B, H100, 6.0)
    assert vote["most"]["flops"] == pytest.approx(two.flops)
    assert vote["most"]["usd"] == pytest.approx(two.usd)
    assert [tier["hardware"]["usd_per_hour"] for tier in said["tiers"]] == [0.80, 6.0, 4.00]
    assert beam["most"]["flops"] > 100 * vote["most"]["flops"]
    assert said["plan"] is None


def test_settings_are_shown_and_what_a_tier_cannot_run(files: list[str]) -> None:
    result = explained(*files)
    assert "cache_type: q8_0 keys, f16 values" in result.stdout
    assert "weights: big.gguf" in result.stdout
    assert "search/beam cannot run: beam search needs an engine that continues a prefix" in result.stdout
    problems = {arm["name"]: arm["problem"] for arm in told(*files)["arms"]}
    assert [name for name, problem in problems.items() if problem] == ["search/beam"]


def test_a_tier_that_the_configuration_lacks_prices_nothing(files: list[str], tmp_path: Path) -> None:
    (tmp_path / "app.yaml").write_text(CONFIG[: CONFIG.index("  search:")])
    beam = told(*files)["arms"][-1]
    assert beam["problem"] == "there is no tier search in the app config"
    assert beam["most"] is None
    assert explained(*files).exit_code == 0


def test_a_question_gets_predictions_a_plan_and_reasons() -> None:
    result = explained("What is 7 + 5?")
    assert result.exit_code == 0, result.output
    for word in ("p(success)", "not learned", "reserves", "goes on below", "- "):
        assert word in result.stdout
    said = told("What is 7 + 5?")
    assert said["prompt_tokens"] == 14 // 3 + 8 + 48
    known = {arm["name"]: arm for arm in said["arms"] if arm["p"] is not None}
    assert set(known) == {
        "direct/direct",
        "direct/cot",
        "consistency/sc4",
        "consistency/sc16",
    }
    assert said["plan"]["reasons"]
    assert said["plan"]["steps"][0]["arm"] in known
    for arm in known.values():
        assert 0 < arm["p"] < 1
        assert arm["expected_tokens"] <= arm["most_tokens"]
        assert arm["expected"]["usd"] <= arm["most"]["usd"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_can_be_pinned(strategy: str) -> None:
    plan = told("What is 7 + 5?", "--strategy", strategy, "--effort", "low")["plan"]
    assert [step["strategy"] for step in plan["steps"]] == [strategy]


def test_a_refusal_is_said(files: list[str]) -> None:
    asked = ["hi", *files, "--tenant", "other"]
    assert "No plan: the request needs" in explained(*asked).stdout
    said = told(*asked)
    assert said["plan"] is None
    assert "the day budget" in said["refusal"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--effort", "huge"], "there is no effort huge; use one of none,"),
        (["--model", "gpt"], "there is no model gpt; use one of auto, direct"),
        (["--strategy", "magic"], "there is no strategy magic; use one of direct, cot,"),
        (["--tenant", "nobody"], "there is no tenant nobody in the policy default; use one of demo"),
        (["--config", "/absent.yaml"], "/absent.yaml cannot be read"),
        (["--policy", "/absent.yaml"], "/absent.yaml:1: cannot be read"),
        (["--live"], "--live takes a question"),
        (["hi", "--live", "--policy", "x"], "--live takes a question"),
        (["hi", "--url", "http://127.0.0.1:9", "--key", "k"], "no service answers at http://127.0.0.1:9"),
    ],
)
def test_errors_are_one_line(arguments: list[str], said: str) -> None:
    result = explained(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_live_asks_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def post(to: Any, path: str, body: dict[str, Any]) -> dict[str, Any]:
        asked.append((to.url, path, body))
        return {"plan": {}}

    monkeypatch.setattr(ask, "post", post)
    options = ["--url", "http://h", "--key", "k", "--strategy", "beam", "--max-tokens", "9", "--json"]
    result = explained("hi", *options)
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"plan": {}})
    body = {
        "model": "auto",
        "messages": [{"role": "user", "content": "hi"}],
        "max_completion_tokens": 9,
        "compute": {"strategy": "beam"},
    }
    assert asked == [("http://h", "/v1/explain", body)]
