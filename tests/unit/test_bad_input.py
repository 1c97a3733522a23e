"""`acr train`, `evaluate` and `calibrate` before hostile tables and places: one sentence and exit 2."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from router.cli.main import app
from tests.outcomes import row

Rows = list[str]


def acr(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def recorded(
    count: int = 60, arms: tuple[str, ...] = ("small", "big"), text: str = "What is {} + 2?"
) -> Rows:
    """A sound table: half right, so every arm has both classes."""
    rng = np.random.default_rng(5)
    return [
        row(f"q{i}", text.format(i), arm, float(rng.random() < 0.5), 10.0 * (1 + at), family=f"f{i % 4}")
        for i in range(count)
        for at, arm in enumerate(arms)
    ]


def changed(lines: Rows, at: int, **fields: object) -> Rows:
    return [*lines[:at], json.dumps({**json.loads(lines[at]), **fields}), *lines[at + 1 :]]


def every(lines: Rows, **fields: object) -> Rows:
    return [json.dumps({**json.loads(line), **fields}) for line in lines]


def written(path: Path, lines: Rows) -> Path:
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model")
    result = acr("train", written(place / "t.jsonl", recorded(80)), "--out", place / "model")
    assert result.exit_code == 0, result.output
    return place / "model"


BAD: dict[str, tuple[Callable[[], Rows], str]] = {
    "empty": (list, "the table has no rows"),
    "NaN": (lambda: changed(recorded(), 7, score=float("nan")), "row 8, column 'score': must be in [0, 1]"),
    "infinite": (lambda: changed(recorded(), 7, score=float("inf")), "row 8, column 'score'"),
    "text for a score": (
        lambda: changed(recorded(), 7, score="1.0"),
        "row 8, column 'score': must be a number",
    ),
    "bool for a score": (
        lambda: changed(recorded(), 7, score=True),
        "row 8, column 'score': must be a number",
    ),
    "identical rows": (
        lambda: [*recorded(), recorded()[3]],
        "row 121, column 'arm': prompt 'q1' with arm 'big'",
    ),
    "conflicting rows": (
        lambda: [*recorded(), changed(recorded(), 3, score=0.25)[3]],
        "row 121, column 'arm'",
    ),
    "other messages": (
        lambda: changed(recorded(), 3, messages=[{"role": "user", "content": "?"}]),
        "'messages'",
    ),
    "no tokens": (
        lambda: changed(recorded(), 2, completion_tokens=None),
        "row 3, column 'completion_tokens'",
    ),
    "control characters": (lambda: every(recorded(), arm="a\x1b[2J"), "row 1, column 'arm'"),
    "same prompt": (
        lambda: every(recorded(), messages=[{"role": "user", "content": ""}]),
        "60 prompts, 1 of them different",
    ),
    "half a row": (lambda: [*recorded(), '{"prompt_id": "q'], "row 121: is not JSON"),
    "CSV": (lambda: ["prompt_id,arm,score", "q1,small,1"], "row 1: is not JSON"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_table_is_one_sentence_at_every_command(name: str, trained: Path, tmp_path: Path) -> None:
    make, said = BAD[name]
    table, out = written(tmp_path / "t.jsonl", make()), tmp_path / "out"
    for words in (
        ("train", table, "--out", out),
        ("evaluate", trained, table),
        ("calibrate", trained, table, "--out", out),
    ):
        result = acr(*words)
        assert result.exit_code == 2, (words[0], result.output)
        assert result.stderr.strip().count("\n") == 0
        # what the classifier was trained on is counted before anything else
        assert said in result.stderr or "was not trained on" in result.stderr or "knows" in result.stderr
        assert not out.exists()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: every(recorded(), score=1.0), "is right on every prompt"),
        (
            lambda: [*recorded(60, ("big",)), *every(recorded(60, ("small",)), score=0.0)],
            "'small' is wrong on every",
        ),
        (lambda: recorded(60, ("small",)), "only arm 'small' was recorded"),
        (lambda: recorded(39), "39 prompts; record at least 40"),
        (lambda: [*recorded(60, ("small",)), *recorded(19, ("big",))], "arm 'big' has 19 prompts"),
    ],
)
def test_what_nothing_can_be_learnt_from(make: Callable[[], Rows], said: str, tmp_path: Path) -> None:
    result = acr("train", written(tmp_path / "t.jsonl", make()), "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert said in result.stderr


def test_calibrating_on_one_class_is_refused(trained: Path, tmp_path: Path) -> None:
    table = written(tmp_path / "t.jsonl", every(recorded(text="Add {} to 7."), score=1.0))
    result = acr("calibrate", trained, table, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "is right on every prompt" in result.stderr


def test_a_table_of_other_arms_is_refused(trained: Path, tmp_path: Path) -> None:
    table = written(tmp_path / "t.jsonl", recorded(60, ("x", "y")))
    assert acr("evaluate", trained, table).exit_code == 2
    assert acr("calibrate", trained, table, "--out", tmp_path / "out").exit_code == 2


@pytest.mark.parametrize(
    "make",
    [
        lambda: [line for at, line in enumerate(recorded(120)) if at % 3],
        lambda: every(recorded(), completion_tokens=0),
        lambda: recorded(60, ("[/big]", "模型 | x")),
        lambda: recorded(60, tuple(f"m{i}" for i in range(12))),
        lambda: (
            [
                json.dumps({**json.loads(line), "family": f"f{i}"})
                for i, line in enumerate(recorded(120, ("a",)))
            ]
            + [
                json.dumps({**json.loads(line), "family": f"f{i}"})
                for i, line in enumerate(recorded(120, ("b",)))
            ]
        ),
        lambda: changed(changed(recorded(), 0, messages=HUGE), 1, messages=HUGE),
        lambda: [line.replace("family", "ignored").replace("\n", "\r\n") for line in recorded()],
    ],
    ids=["gaps", "no tokens spent", "markup", "twelve arms", "a family each", "10 MB", "no families"],
)
def test_odd_but_sound_tables_are_learnt_from(make: Callable[[], Rows], tmp_path: Path) -> None:
    table = written(tmp_path / "t.jsonl", make())
    for words in (("train", table, "--out", tmp_path / "model"), ("evaluate", tmp_path / "model", table)):
        result = acr(*words)
        assert result.exit_code == 0, (words[0], result.output, result.exception)


HUGE = [{"role": "user", "content": "x" * 10_000_000}]


def test_no_arms_named_is_one_sentence(tmp_path: Path) -> None:
    result = acr(
        "train", written(tmp_path / "t.jsonl", recorded()), "--out", tmp_path / "out", "--arms", " , "
    )
    assert result.exit_code == 2
    assert "--arms" in result.stderr


def test_a_place_that_cannot_be_written_is_told_before_the_work(tmp_path: Path, trained: Path) -> None:
    table = written(tmp_path / "t.jsonl", recorded())
    fresh = written(tmp_path / "f.jsonl", recorded(text="Add {} to 7."))
    before = table.read_bytes()
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    places = [table, table / "under", tmp_path, Path("/proc/x"), Path("/dev/null")]
    for place in [*places, *([closed / "x"] if os.geteuid() else [])]:
        for words in (("train", table), ("calibrate", trained, fresh)):
            result = acr(*words, "--out", place)
            assert result.exit_code == 2, (words[0], place, result.output)
            assert result.stderr.strip().count("\n") == 0
    assert table.read_bytes() == before


@pytest.mark.parametrize("name", ["model.pkl", "model.joblib", "notes.txt"])
def test_an_artifact_with_something_else_in_it_is_refused(name: str, trained: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in trained.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / name).write_bytes(b"\x80\x04.")
    table = written(tmp_path / "t.jsonl", recorded())
    for words in (("evaluate", copy, table), ("calibrate", copy, table, "--out", tmp_path / "out")):
        result = acr(*words)
        assert result.exit_code == 2
        assert name in result.stderr
