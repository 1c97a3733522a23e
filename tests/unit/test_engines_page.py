"""What docs/engines.md shows can be used as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from router.own_questions import read_questions
from router.profiles import read_config

PAGE = (Path(__file__).parents[2] / "docs/engines.md").read_text(encoding="utf-8")
CONFIGURATIONS = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("shown", CONFIGURATIONS)
def test_its_configurations_are_read(shown: str, tmp_path: Path) -> None:
    file = tmp_path / "engines.yaml"
    file.write_text(shown)
    assert read_config(file).tiers


def test_its_question_is_read(tmp_path: Path) -> None:
    (shown,) = re.findall(r"`(\{.prompt.*?\})`", PAGE, re.DOTALL)
    file = tmp_path / "mine.jsonl"
    file.write_text(shown.replace("\n", " "))
    (question,) = read_questions(file)
    assert question.family == "sums"


def test_it_names_every_kind() -> None:
    assert len(CONFIGURATIONS) == 3
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == {
        "kind", "llamacpp", "openai_http", "transformers", "vllm", "fake",
    }  # fmt: skip
