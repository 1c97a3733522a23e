"""An operator's own questions: read whole, or refused with the line that is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from backends.answers import extract
from backends.engines.base import Message
from router.own_questions import LONGEST_LINE_BYTES, QuestionsError, read_questions


def written(folder: Path, *rows: Any) -> Path:
    file = folder / "questions.jsonl"
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return file


def test_a_question_is_a_prompt_and_what_is_right(tmp_path: Path) -> None:
    (one, two) = read_questions(
        written(
            tmp_path,
            {"prompt": "Six times seven?", "answers": ["42"], "family": "sums", "difficulty": "easy"},
            "",
            {"prompt": "Capital of Kenya?", "answers": ["Nairobi"], "match": "anywhere"},
        )
    )
    assert one.messages == (Message("user", "Six times seven?"),)
    assert (one.family, one.difficulty, two.family) == ("sums", "easy", "own")
    assert one.score("", extract("It is **42.0**.")) == 1.0
    assert one.score("42 or 43", extract("42 or 43")) == 0.0
    assert two.score("That would be nairobi, I think.", None) == 1.0


def test_conversations_keep_their_turns(tmp_path: Path) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 3 + 4?"},
        {"role": "assistant", "content": "7"},
        {"role": "user", "content": "And doubled?"},
    ]
    (asked,) = read_questions(written(tmp_path, {"messages": turns, "answers": ["14"]}))
    assert [{"role": m.role, "content": m.content} for m in asked.messages] == turns
    assert asked.text == "And doubled?"


def test_ids_are_given_or_come_from_the_words(tmp_path: Path) -> None:
    rows = [{"prompt": p, "answers": ["1"]} for p in ("a?", "b?")]
    first = read_questions(written(tmp_path, *rows))
    again = read_questions(written(tmp_path, *reversed(rows)))
    assert {q.text: q.prompt_id for q in first} == {q.text: q.prompt_id for q in again}
    (named,) = read_questions(written(tmp_path, {**rows[0], "prompt_id": "mine-1"}))
    assert named.prompt_id == "mine-1"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{", "line 2: "),
        ("[1]", "line 2: "),
        ({"prompt": "a?"}, "line 2: answers"),
        ({"prompt": "a?", "answers": []}, "line 2: answers"),
        ({"prompt": "a?", "answers": "7"}, "line 2: answers"),
        ({"prompt": "", "answers": ["7"]}, "line 2: prompt"),
        ({"answers": ["7"]}, "give prompt or messages"),
        ({"prompt": "a?", "anwsers": ["7"]}, "line 2: a"),
        ({"prompt": "a?", "answers": ["7"], "family": "two\nlines"}, "line 2: family"),
        ({"messages": [{"role": "assistant", "content": "7"}], "answers": ["7"]}, "must be the user's"),
        ({"messages": [{"role": "tool", "content": "7"}], "answers": ["7"]}, "line 2: messages.0.role"),
        ({"prompt": "a?", "answers": ["..."]}, "no reply could match"),
        ({"prompt": "a?", "answers": ["\n"]}, "line 2: answers.0"),
        ({"prompt": "first?", "answers": ["7"]}, "was asked before"),
        ('{"prompt": "\ud800", "answers": ["7"]}'.encode("utf-8", "surrogatepass").decode("latin-1"), ""),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, row: Any, said: str) -> None:
    file = written(tmp_path, {"prompt": "first?", "answers": ["1"]})
    with file.open("ab") as more:
        more.write(row.encode("latin-1") if isinstance(row, str) else json.dumps(row).encode())
    with pytest.raises(QuestionsError) as refused:
        read_questions(file)
    assert said in str(refused.value)
    assert "line 2" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_files_that_hold_nothing_or_too_much(tmp_path: Path) -> None:
    with pytest.raises(QuestionsError, match="cannot be read"):
        read_questions(tmp_path / "none.jsonl")
    with pytest.raises(QuestionsError, match="cannot be read"):
        read_questions(tmp_path)
    with pytest.raises(QuestionsError, match="has no questions"):
        read_questions(written(tmp_path, "", " "))
    with pytest.raises(QuestionsError, match="line 1 is longer than"):
        read_questions(written(tmp_path, "x" * (LONGEST_LINE_BYTES + 10)))
    junk = tmp_path / "junk"
    junk.write_bytes(bytes(range(256)) * 10)
    with pytest.raises(QuestionsError, match="line 1"):
        read_questions(junk)
