"""Recording an outcome table: complete, resumable, and replayable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from backends.engines.fake import FakeConfig, FakeEngine
from backends.stopping import adaptive_count
from backends.task import StrategyParams
from classifier.tables import read_table
from router.questions import DIFFICULTIES, PLAIN, Question, questions
from router.record import RecordedArm, record, recorded_arms, recorded_rows
from tests.tasks import says

ARMS = (
    RecordedArm("direct/direct", "direct", StrategyParams(think=False, temperature=0.0)),
    RecordedArm("consistency/sc4", "self_consistency", StrategyParams(max_samples=4)),
    RecordedArm("consistency/sc8", "self_consistency", StrategyParams(max_samples=8)),
    RecordedArm("search/beam", "beam", StrategyParams(max_samples=4, width=2)),
)
ASKED = [Question(f"q-{i}", "sums" if i % 2 else "facts", f"What is {i}?", ("7",)) for i in range(4)]


async def rows_of(table: Path, engine: FakeEngine, asked: list[Question] = ASKED) -> list[dict[str, Any]]:
    await engine.start()
    await record(engine, asked, ARMS, table, max_tokens=64, seed=1, done=lambda _: None)
    return [json.loads(line) for line in table.read_text().splitlines()]


async def test_every_arm_is_recorded_once_a_question(tmp_path: Path) -> None:
    rows = await rows_of(tmp_path / "t.jsonl", says(("Answer: 7", 3.0), ("Answer: 8", 1.0)))
    assert {(r["prompt_id"], r["arm"]) for r in rows} == {(q.prompt_id, a.name) for q in ASKED for a in ARMS}
    assert len(rows) == 16
    for row in rows:
        assert 0.0 <= row["score"] <= 1.0
        assert row["completion_tokens"] > 0


async def test_the_trainer_reads_what_is_recorded(tmp_path: Path) -> None:
    table = tmp_path / "t.jsonl"
    engine = FakeEngine(FakeConfig(), script=lambda g, _: f"Answer: {6 + (g.sampling.seed or 0) % 2}")
    await rows_of(table, engine)
    read = read_table(table)
    assert set(read.arms) == {arm.name for arm in ARMS}


async def test_votes_can_be_replayed_from_their_samples(tmp_path: Path) -> None:
    rows = await rows_of(tmp_path / "t.jsonl", says(("Answer: 7", 2.0), ("Answer: 8", 1.0)))
    for question in ASKED:
        of = {r["arm"]: r for r in rows if r["prompt_id"] == question.prompt_id}
        samples = of["consistency/sc8"]["samples"]
        assert len(samples) == 8
        assert of["consistency/sc4"]["samples"] == []  # a prefix of the same samples
        for arm, limit in (("consistency/sc4", 4), ("consistency/sc8", 8)):
            used = adaptive_count([s["answer"] for s in samples], limit, 0.95)
            assert of[arm]["completion_tokens"] == sum(s["completion_tokens"] for s in samples[:used])


async def test_a_stopped_recording_goes_on_where_it_was(tmp_path: Path) -> None:
    table = tmp_path / "t.jsonl"
    engine = says("Answer: 7")
    first = await rows_of(table, engine, ASKED[:2])
    whole = table.read_text()
    table.write_text(whole + '{"prompt_id": "q-2", "arm": "dir')  # killed while it wrote
    assert {question for question, _ in recorded_rows(table)} == {"q-0", "q-1"}
    rows = await rows_of(table, engine)
    assert rows[: len(first)] == first
    assert len(rows) == 16


async def test_numbers_that_json_has_no_word_for_are_left_out(tmp_path: Path) -> None:
    table = tmp_path / "t.jsonl"
    await rows_of(table, says("\n\n", "Answer: 7"))
    assert "Infinity" not in table.read_text()
    assert "NaN" not in table.read_text()


def test_arms_come_from_a_policy() -> None:
    arms = recorded_arms(
        {"consistency/sc16": {"strategy": "self_consistency", "max_samples": 16, "tier": "consistency"}}, 4
    )
    assert arms[0].params.max_samples == 4
    assert arms[0].strategy == "self_consistency"


def test_facts_count_wherever_they_are_said() -> None:
    fact = Question("f", PLAIN, "Capital of France?", ("Paris",), anywhere=True)
    assert fact.score("It is, of course, PARIS.", None) == 1.0
    assert fact.score("Parisian cuisine", None) == 0.0
    count = Question("c", "sums", "3 + 4?", ("7",))
    assert count.score("about 7", "7") == 1.0
    assert count.score("7 or 8", "8") == 0.0


def test_questions_are_balanced_distinct_and_the_same_each_time() -> None:
    pytest.importorskip("reasoning_gym")
    asked = questions(3, seed=5)
    kinds = {(PLAIN, "")} | {(family, level) for family, levels in DIFFICULTIES.items() for level in levels}
    assert len(kinds) == 1 + 2 * len(DIFFICULTIES)
    assert {(q.family, q.difficulty) for q in asked[: len(kinds)]} == kinds
    assert len(asked) == 3 * len(kinds)
    assert len({q.text for q in asked}) == len(asked)
    assert len({q.prompt_id for q in asked}) == len(asked)
    assert asked == questions(3, seed=5)
    assert asked != questions(3, seed=6)


async def test_the_pool_may_be_larger_than_any_vote(tmp_path: Path) -> None:
    table, engine = tmp_path / "t.jsonl", says(("Answer: 7", 2.0), ("Answer: 8", 1.0))
    await engine.start()
    await record(
        engine, ASKED, ARMS, table, max_tokens=64, seed=1, done=lambda _: None, samples=12, concurrency=3
    )
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    listed = {row["prompt_id"]: row["samples"] for row in rows if row["arm"] == "consistency/sc8"}
    assert {len(samples) for samples in listed.values()} == {12}
    for row in rows:
        if row["arm"] == "consistency/sc8":  # what a vote of 8 had spent, not what was drawn
            used = adaptive_count([s["answer"] for s in row["samples"]], 8, 0.95)
            assert row["completion_tokens"] == sum(s["completion_tokens"] for s in row["samples"][:used])


async def test_an_arm_that_is_new_is_added_to_the_questions_that_are_there(tmp_path: Path) -> None:
    table, engine = tmp_path / "t.jsonl", says("Answer: 7")
    await engine.start()
    for arms in (ARMS[:2], ARMS):
        await record(engine, ASKED, arms, table, max_tokens=64, seed=1, done=lambda _: None)
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    assert len(rows) == len({(r["prompt_id"], r["arm"]) for r in rows}) == len(ASKED) * len(ARMS)
