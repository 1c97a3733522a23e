from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from classifier.artifact import Artifact, load
from classifier.errors import ArmsDiffer, TooFewItems
from classifier.predictor import Predictor
from classifier.recalibrate import recalibrate
from classifier.tables import OutcomeTable, parse_table
from classifier.train import train
from router.cli.main import app
from tests.outcomes import row, sums

BEFORE = {"a": (0.9, 0.6, 0.3), "b": (0.95, 0.8, 0.6)}
AFTER = {"a": (0.6, 0.3, 0.05), "b": (0.95, 0.8, 0.6)}


def lines(table: OutcomeTable, arms: tuple[str, ...]) -> list[str]:
    """The same outcomes under wordings of their own."""
    return [
        row(f"n{r}", f"Hello. {i.messages[0]['content']}", arm, table.scores[r, a], table.tokens[r, a])
        for r, i in enumerate(table.items)
        for a, arm in enumerate(table.arms)
        if arm in arms
    ]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    where = tmp_path_factory.mktemp("m") / "old"
    return load(train(sums(240, truth=BEFORE), where, seed=0, date="2020-01-01").artifact)


def test_an_arm_that_got_worse_is_put_right_and_the_rest_stays(artifact: Artifact, tmp_path: Path) -> None:
    table = parse_table(lines(sums(300, seed=4, truth=AFTER), ("a",)))
    found = recalibrate(artifact, table, tmp_path / "new", seed=0, date="2020-02-02")
    assert set(found.changes) == {"a"}
    assert found.left == ("b",)
    change = found.changes["a"]
    assert change.brier_after < change.brier_before
    assert change.ece_after < change.ece_before
    old, new = Predictor(artifact), Predictor.load(tmp_path / "new")
    asked = [{"role": "user", "content": "Hello. What is 4 + 7?"}]
    assert new.version == found.version != old.version
    assert new.predict(asked).p["a"] < old.predict(asked).p["a"]
    assert new.predict(asked).p["b"] == pytest.approx(old.predict(asked).p["b"])
    assert new.predict(asked).tokens == old.predict(asked).tokens
    card = load(tmp_path / "new").card
    assert card["calibrated"]["from"] == artifact.version
    assert card["table_sha256"] == artifact.card["table_sha256"]


def test_prompts_from_training_do_not_count(artifact: Artifact, tmp_path: Path) -> None:
    with pytest.raises(TooFewItems, match="not trained on"):
        recalibrate(artifact, sums(240, truth=BEFORE), tmp_path / "new", seed=0, date="2020-02-02")
    assert not (tmp_path / "new").exists()


def test_a_table_of_other_arms(artifact: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ArmsDiffer):
        recalibrate(artifact, sums(90), tmp_path / "new", seed=0, date="2020-02-02")


def test_the_command(artifact: Artifact, tmp_path: Path) -> None:
    old = tmp_path / "old"
    train(sums(60, truth=BEFORE), old, seed=0, date="2020-01-01")
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(lines(sums(90, seed=5, truth=AFTER), ("a", "b"))))
    asked = ["calibrate", str(old), str(path), "--out", str(tmp_path / "new")]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    assert "90 prompts" in result.output
    assert load(tmp_path / "new").arms == ("a", "b")
    path.write_text("{")
    failed = CliRunner().invoke(app, asked)
    assert (failed.exit_code, len(failed.stderr.strip().splitlines())) == (2, 1)
    assert np.isfinite(load(tmp_path / "new").weights.head.base).all()
