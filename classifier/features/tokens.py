"""Text cut to a bound, into sentences and into tokens; all of it linear in the text."""

from __future__ import annotations

import re

MAX_CHARS = 32_768

# Every alternative matches at its first character and never looks back: linear in the text.
_TOKEN = re.compile(r"[0-9]+(?:[.,][0-9]+)*|[^\W\d_]+(?:['’][^\W\d_]+)?|[^\w\s]")
_BLANKS = re.compile(r"[^\S\n]+")
# Runs of blanks are single blanks by then, so neither alternative can try a run twice.
_BREAKS = re.compile(r" ?\n[\n ]*")
_ENDED_LINE = re.compile(r"(?<=[.!?])\n")
_SENTENCE = re.compile(r"(?<=[.!?]) |\n")


def bounded(text: str, limit: int = MAX_CHARS) -> str:
    """The text, or its first three quarters and its end if it is longer than `limit` characters."""
    if len(text) <= limit:
        return text
    head = limit * 3 // 4
    return f"{text[:head]}\n{text[len(text) - (limit - head - 1) :]}"


def plain(text: str) -> str:
    """Runs of blanks as one, none at the ends, no empty lines, and no break where a sentence ended anyway:
    how a question is spaced does not make it harder."""
    return _ENDED_LINE.sub(" ", _BREAKS.sub("\n", _BLANKS.sub(" ", text))).strip()


def sentences(text: str) -> list[str]:
    """The sentences of a `plain` text; a line break ends one too."""
    return _SENTENCE.split(text)


def tokenize(text: str) -> list[str]:
    """Numbers, words and single symbols, in order."""
    return _TOKEN.findall(text)


def is_number(token: str) -> bool:
    """Whether a token of `tokenize` is a number."""
    return "0" <= token[0] <= "9"
