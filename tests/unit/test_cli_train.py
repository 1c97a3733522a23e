from __future__ import annotations

from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from classifier.artifact import load
from classifier.evaluate import FrontierRow
from classifier.search import Strength
from classifier.train import TrainReport
from router.cli.train import app, show
from tests.outcomes import row, sums

FIGURES = {
    "items": 40,
    "base_rate": 0.5,
    "brier": 0.2,
    "brier_base": 0.25,
    "ece": 0.04,
    "ece_floor": 0.05,
    "auc": None,
}
JUDGED = {"brier": 0.123, "ece": 0.04, "ece_floor": 0.05, "auc": None}


def report(**changes: object) -> TrainReport:
    fields: dict[str, object] = {
        "artifact": Path("out"),
        "version": "abc123",
        "rows": 1_234,
        "items": 617,
        "families": ("f", "g", "h"),
        "arms": ("consistency/sc16",),
        "base_rates": {"consistency/sc16": 0.5},
        "typical_tokens": {"consistency/sc16": 1_042.0},
        "held_out_items": {"consistency/sc16": FIGURES},
        "held_out_families": {"consistency/sc16": FIGURES},
        "frontier": (FrontierRow("oracle", 0.9, 12_345.0, 0.4),),
        "confidence": {
            "direct/direct": {"items": 617, "fitted": True, "confidence": JUDGED, "prior": JUDGED},
            "direct/cot": {"items": 12, "fitted": False, "confidence": JUDGED, "prior": JUDGED},
        },
        "strength": Strength(0.01, 10.0, 1.0),
        "distrust": 0.5,
    }
    return TrainReport(**{**fields, **changes})  # type: ignore[arg-type]


def printed(shown: TrainReport) -> str:
    console = Console(width=80, record=True, file=None, force_terminal=False)
    with console.capture() as capture:
        show(shown, console)
    return capture.get()


def test_everything_fits_into_eighty_columns() -> None:
    text = printed(report())
    assert max(map(len, text.splitlines())) <= 80
    for part in (
        "1,234 rows",
        "617 prompts",
        "3 families",
        "consistency/sc16",
        "1,042",
        "0.250",
        "abc123 in out",
    ):
        assert part in text
    assert "+0.500" in text
    assert "0.123" in text
    lines = [line.split() for line in text.splitlines()]
    assert [line[:2] for line in lines if line[:1] == ["direct/direct,"]] == [
        ["direct/direct,", "prior"],
        ["direct/direct,", "confidence"],
    ]


def test_a_sample_that_adds_nothing_is_said_to() -> None:
    assert "direct/cot, the prior again" in printed(report())
    assert "Confidence" not in printed(report(confidence={}))


def test_what_is_missing_is_said() -> None:
    text = printed(report(held_out_families=None, frontier=()))
    assert "fewer than three" in text
    assert "oracle" not in text


@pytest.fixture
def cli() -> typer.Typer:
    return app


def test_a_table_becomes_an_artifact(tmp_path: Path, cli: typer.Typer) -> None:
    table = sums(48)
    lines = [
        row(item.prompt_id, item.messages[0]["content"], arm, table.scores[i, a], table.tokens[i, a])
        for i, item in enumerate(table.items)
        for a, arm in enumerate(table.arms)
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    out = tmp_path / "model"
    result = CliRunner().invoke(cli, [str(tmp_path / "t.jsonl"), "--out", str(out), "--seed", "5"])
    assert result.exit_code == 0, result.output
    assert "144 rows" in result.output
    assert (out / "MANIFEST.json").exists()


def test_some_arms_alone_are_learnt(tmp_path: Path, cli: typer.Typer) -> None:
    table = sums(48)
    lines = [
        row(item.prompt_id, item.messages[0]["content"], arm, table.scores[i, a])
        for i, item in enumerate(table.items)
        for a, arm in enumerate(table.arms)
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    asked = [str(tmp_path / "t.jsonl"), "--out", str(tmp_path / "m"), "--arms"]
    assert CliRunner().invoke(cli, [*asked, "cot, direct"]).exit_code == 0
    assert load(tmp_path / "m").arms == ("cot", "direct")
    result = CliRunner().invoke(cli, [*asked, "cot,none"])
    assert (result.exit_code, "'none'" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"),
        ("", "no rows"),
        ("{", "row 1: is not JSON"),
        (row("q", "x", "a", 2.0), "row 1, column 'score'"),
        (row("q", "x", "a", 1.0), "at least two"),
    ],
)
def test_an_error_is_one_line_and_exit_2(
    tmp_path: Path, cli: typer.Typer, content: str | None, said: str
) -> None:
    path = tmp_path / "t.jsonl"
    if content is not None:
        path.write_text(content)
    result = CliRunner().invoke(cli, [str(path), "--out", str(tmp_path / "m")])
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "m").exists()
