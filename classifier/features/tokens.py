"""Text cut to a bound, into sentences and into tokens; all of it linear in the text."""

from __future__ import annotations

import re

MAX_CHARS = 32_768

# Every alternative matches at its first character and never looks back: linear in the text.
_TOKEN = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?|[0-9]+(?:[.,][0-9]+)*|[^\w\s]")
# The same on ASCII, where plain ranges do and are quicker.
_ASCII_TOKEN = re.compile(
    r"[A-Za-z]+(?:'[A-Za-z]+)?|[0-9]+(?:[.,][0-9]+)*|[\x00-\x08\x0e-\x1b!-/:-@\[-^`{-\x7f]"
)


def bounded(text: str, limit: int = MAX_CHARS) -> str:
    """The text, or its first three quarters and its end if it is longer than `limit` characters."""
    if len(text) <= limit:
        return text
    head = limit * 3 // 4
    return f"{text[:head]}\n{text[len(text) - (limit - head - 1) :]}"


def plain(text: str) -> str:
    """Runs of blanks as one, none at the ends, no empty lines, and no break where a sentence ended anyway:
    how a question is spaced does not make it harder."""
    lines = [" ".join(words) for line in text.split("\n") if (words := line.split())]
    joined = "\n".join(lines)
    return joined.replace(".\n", ". ").replace("!\n", "! ").replace("?\n", "? ")


def sentences(text: str) -> list[str]:
    """The sentences of a `plain` text; a line break ends one too."""
    return text.replace(". ", ".\n").replace("! ", "!\n").replace("? ", "?\n").split("\n")


def tokenize(text: str) -> list[str]:
    """Numbers, words and single symbols, in order."""
    return (_ASCII_TOKEN if text.isascii() else _TOKEN).findall(text)


def is_number(token: str) -> bool:
    """Whether a token of `tokenize` is a number."""
    return "0" <= token[0] <= "9"
