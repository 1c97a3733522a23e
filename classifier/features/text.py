"""The text that features are taken from: bounded, and the last question read with what it refers to."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from classifier.features.words import word_set

MAX_CHARS = 32_768
MAX_MESSAGES = 256
_SYSTEM_CHARS = 4_096

# Every alternative matches at its first character and never looks back: linear in the text.
_TOKEN = re.compile(r"[0-9]+(?:[.,][0-9]+)*|[^\W\d_]+(?:['’][^\W\d_]+)?|[^\w\s]")

_BLANKS = re.compile(r"[^\S\n]+")

_OPENERS = word_set("and or now again also then but")
_POINTERS = word_set("it that this these those they them same again instead previous above")


@dataclass(frozen=True, slots=True)
class View:
    """What a conversation asks. `question` is at most MAX_CHARS long; `chars` is its length uncut."""

    question: str
    tokens: tuple[str, ...]
    chars: int
    system: str
    context_chars: int
    user_turns: int
    assistant_turns: int
    follow_up: bool


def bounded(text: str, limit: int = MAX_CHARS) -> str:
    """The text, or its first three quarters and its end if it is longer than `limit` characters."""
    if len(text) <= limit:
        return text
    head = limit * 3 // 4
    return f"{text[:head]}\n{text[len(text) - (limit - head - 1) :]}"


def tokenize(text: str) -> list[str]:
    """Numbers, words and single symbols, in order."""
    return _TOKEN.findall(text)


def is_number(token: str) -> bool:
    """Whether a token of `tokenize` is a number."""
    return "0" <= token[0] <= "9"


def view(messages: Sequence[Mapping[str, str]]) -> View:
    """Read a conversation; never raises on odd content, and costs the same above MAX_CHARS.

    A last question that points back ("and with 17?", "why is that?") is read together with the user
    turn before it. Without any user turn the last message stands in for the question.
    """
    recent = messages[-MAX_MESSAGES:]
    users: list[str] = []
    assistant_turns = 0
    context_chars = 0
    system = ""
    for message in recent:
        role, content = message.get("role"), message.get("content")
        if not isinstance(content, str):
            continue
        if role == "user":
            users.append(content)
        elif role in ("system", "developer"):
            system = bounded(f"{system}\n{bounded(content, _SYSTEM_CHARS)}", _SYSTEM_CHARS)
        else:
            assistant_turns += 1
        context_chars += len(content)
    question = users[-1] if users else _last_content(recent)
    own = len(question)
    chars = own if own > MAX_CHARS else len(_plain(question))
    text = _plain(bounded(question))
    tokens = tokenize(text)
    follow_up = len(users) > 1 and _points_back(tokens)
    if follow_up:
        text = _plain(bounded(f"{bounded(users[-2], MAX_CHARS // 2)}\n{bounded(text, MAX_CHARS // 2 - 1)}"))
        tokens = tokenize(text)
        chars += len(users[-2])
        own += len(users[-2])
    return View(
        question=text,
        tokens=tuple(tokens),
        chars=chars,
        system=system,
        context_chars=max(0, context_chars - own),
        user_turns=len(users),
        assistant_turns=assistant_turns,
        follow_up=follow_up,
    )


def _plain(text: str) -> str:
    """Runs of blanks as one, none at the ends: how a question is spaced does not make it harder."""
    return _BLANKS.sub(" ", text).strip()


def _last_content(messages: Sequence[Mapping[str, str]]) -> str:
    content = messages[-1].get("content") if messages else ""
    return content if isinstance(content, str) else ""


def _points_back(tokens: Sequence[str]) -> bool:
    """Whether a question is too short, or too full of "it" and "again", to stand alone."""
    if len(tokens) > 24:
        return False
    words = [token.lower() for token in tokens if token[0].isalpha()]
    if sum(1 for token in tokens if is_number(token)) >= 2:
        return bool(words) and words[0] in _OPENERS
    if len(words) <= 3:
        return True
    return len(words) <= 12 and (words[0] in _OPENERS or any(word in _POINTERS for word in words))
