"""`acr record`: an operator's questions, on the engines of an app configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from classifier.tables import read_table
from router.cli.main import app
from router.profiles import fake_config
from router.record import recorded_arms
from router.recorders import tier_recorders
from router.startup import StartupError

SHAPE = "SmolLM2-135M-Instruct"
QUESTIONS = [
    {"prompt": "What is 3 + 4?", "answers": ["7"], "family": "sums"},
    {"prompt": "What is 5 + 5?", "answers": ["10"], "family": "sums"},
]


def run(*args: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["record", *map(str, args)])
    return result.exit_code, result.output


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A configuration of two fakes that answer differently, and questions."""

    def tier(says: str) -> dict[str, Any]:
        answers = {"": [{"text": f"Answer: {says}"}]}
        return {
            "engine": {"kind": "fake", "answers": answers},
            "hardware": "CPU",
            "shape": SHAPE,
        }

    config = {"tiers": {"direct": tier("7"), "consistency": tier("10"), "search": tier("10")}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    return {name: tmp_path / name for name in ("config.yaml", "q.jsonl", "out.jsonl")}


def test_each_arm_is_recorded_on_the_engine_of_its_tier(files: dict[str, Path]) -> None:
    args = ("--out", files["out.jsonl"], "--config", files["config.yaml"], "--questions", files["q.jsonl"])
    code, said = run(*args, "--samples", 4)
    assert code == 0, said
    table = read_table(files["out.jsonl"])
    right = dict(zip(table.arms, table.scores.T.tolist(), strict=True))
    assert right["direct/direct"] == [1.0, 0.0]
    assert right["consistency/sc4"] == [0.0, 1.0]
    whole = files["out.jsonl"].read_text()
    code, _ = run(*args, "--samples", 4)
    assert (code, files["out.jsonl"].read_text()) == (0, whole)


def test_tiers_that_share_an_engine_are_recorded_together() -> None:
    specs = {"direct/direct": "direct", "consistency/sc4": "consistency", "search/beam": "search"}
    arms = recorded_arms({name: {"strategy": "direct", "tier": tier} for name, tier in specs.items()})
    (one,) = tier_recorders(fake_config(), specs, arms, samples=16)
    assert {arm.name for arm in one.arms} == set(specs)
    assert one.concurrency == 8  # 2 x 64 slots / 16 samples
    with pytest.raises(StartupError, match="no tier elsewhere; choose others with --arms"):
        tier_recorders(fake_config(), {**specs, "search/beam": "elsewhere"}, arms, samples=16)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("--questions", "nowhere.jsonl"), "nowhere.jsonl cannot be read"),
        (("--config", "nowhere.yaml"), "nowhere.yaml cannot be read"),
        (("--policy", "nowhere.yaml"), "nowhere.yaml"),
        (("--arms", "nothing/*"), "no arm or no family has such a name"),
    ],
)
def test_what_cannot_be_recorded_is_one_sentence(
    files: dict[str, Path], change: tuple[str, str], said: str
) -> None:
    given = {"--out": files["out.jsonl"], "--config": files["config.yaml"], "--questions": files["q.jsonl"]}
    given[change[0]] = Path(change[1])
    code, output = run(*(part for pair in given.items() for part in pair))
    assert code == 2
    assert said in output.replace("\n", "")
    assert "Traceback" not in output
    assert not files["out.jsonl"].exists()


def test_an_engine_that_is_not_there_ends_it_with_a_sentence(files: dict[str, Path]) -> None:
    engine = {"kind": "openai_http", "base_url": "http://127.0.0.1:9/v1", "model": "m", "context_tokens": 512}
    tier = {"engine": engine, "hardware": "CPU", "shape": SHAPE}
    files["config.yaml"].write_text(yaml.safe_dump({"tiers": {"direct": tier}}))
    code, said = run(
        "--out", files["out.jsonl"], "--config", files["config.yaml"], "--questions", files["q.jsonl"],
        "--arms", "direct/*",
    )  # fmt: skip
    assert code == 2, said
    assert "Traceback" not in said
    assert "the server of m cannot be reached" in said.replace("\n", "")
