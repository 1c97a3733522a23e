"""An operator's own questions with known answers, from JSON lines, to record outcomes on."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from backends.answers import extract, matches
from backends.engines.base import Message, Role
from router.questions import Question

MOST_QUESTIONS = 100_000
LONGEST_LINE_BYTES = 1 << 20
_Text = Annotated[str, Field(min_length=1)]
_Answer = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
_Name = Annotated[str, Field(pattern=r"^[\w.:/-]{1,100}$")]


class QuestionsError(ValueError):
    """A file of questions that cannot be used; the message is one sentence that names the line."""


class _Turn(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Role
    content: _Text


class _Row(BaseModel):
    """`prompt` or `messages`, and what is right: one of `answers`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: _Text | None = None
    messages: tuple[_Turn, ...] | None = Field(default=None, min_length=1)
    answers: tuple[_Answer, ...] = Field(min_length=1, max_length=100)
    match: Literal["answer", "anywhere"] = "answer"
    family: _Name = "own"
    difficulty: Annotated[str, Field(pattern=r"^[\w.:/-]{0,100}$")] = ""
    prompt_id: _Name | None = None

    @model_validator(mode="after")
    def _one_prompt(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give prompt or messages, and not both")
        if self.messages is not None and self.messages[-1].role != "user":
            raise ValueError("the last of messages must be the user's")
        for answer in self.answers:
            if self.match == "answer" and not matches(extract(f"Answer: {answer}"), [answer]):
                raise ValueError("no reply could match these answers: shorten them, or say match: anywhere")
        return self

    def question(self) -> Question:
        turns = [Message(turn.role, turn.content) for turn in self.messages or ()]
        *before, last = turns or [Message("user", self.prompt or "")]
        told = "\0".join(f"{turn.role}\0{turn.content}" for turn in (*before, last))
        return Question(
            prompt_id=self.prompt_id or hashlib.sha256(told.encode()).hexdigest()[:16],
            family=self.family,
            text=last.content,
            answers=self.answers,
            difficulty=self.difficulty,
            before=tuple(before),
            anywhere=self.match == "anywhere",
        )


def read_questions(path: Path) -> list[Question]:
    """Every question of the file, in its order. Raises QuestionsError."""
    found: dict[str, Question] = {}
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE_BYTES + 1), b""), 1):
                if not line.strip():
                    continue
                question = _read(line, f"{path}, line {number}")
                if question.prompt_id in found:
                    raise QuestionsError(
                        f"{path}, line {number}: {question.prompt_id} was asked before; "
                        "drop the line, or give it a prompt_id of its own"
                    )
                found[question.prompt_id] = question
                if len(found) > MOST_QUESTIONS:
                    raise QuestionsError(f"{path} has more than {MOST_QUESTIONS:,} questions; split it")
    except OSError as error:
        raise QuestionsError(f"{path} cannot be read: {error.strerror}") from error
    if not found:
        raise QuestionsError(f"{path} has no questions; write one JSON object a line: prompt and answers")
    return list(found.values())


def _read(line: bytes, where: str) -> Question:
    if len(line) > LONGEST_LINE_BYTES:
        raise QuestionsError(f"{where} is longer than {LONGEST_LINE_BYTES:,} bytes; shorten it")
    try:
        return _Row.model_validate_json(line).question()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        at = ".".join(str(part) for part in first["loc"])
        raise QuestionsError(f"{where}: {at + ': ' if at else ''}{first['msg']}") from error
