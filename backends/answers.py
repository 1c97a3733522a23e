"""Answers out of texts: extraction to a canonical form, so that votes are compared and not prose.

Two answers are equivalent when their canonical forms are equal: `1,000` = `1000.0` = `$1000`,
`1/2` = `0.5`, `(b)` = `B`, JSON up to key order and white space, short text up to case and punctuation.
Nothing here evaluates anything: numbers go through `fractions.Fraction` on bounded digits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from fractions import Fraction
from typing import Literal

Kind = Literal["number", "choice", "json", "text"]

MAX_ANSWER_CHARS = 120  # beyond this a "short answer" is prose, and prose is never voted on
MAX_SCAN_CHARS = 16_384  # an answer stands near the end; older text is not scanned
MAX_DIGITS = 40

_NUMBER = re.compile(r"(?<![\w.])[-+−]?\$?\d[\d,]*(?:\.\d+)?(?:\s?/\s?\d+)?(?![\d])")
_MARKER = re.compile(r"(?:\b(?:answer|result)\b[*_`]*\s*(?:is\b\s*:?|[:=])|####)\s*", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?](?:\s|$)")
_FRAC = re.compile(r"\\d?frac\{([^{}]{1,40})\}\{([^{}]{1,40})\}")
_CHOICE = re.compile(r"^\(?([A-Ja-j])[).:]?(?:\s|$)")
_TRIM = " \t\r\n*_`\"'“”‘’.,;:!?$()[]{}"


def canonical_number(text: str) -> str | None:
    """The number that `text` is, as a canonical fraction; None if it is none or too long."""
    cleaned = text.strip(_TRIM).replace(",", "").replace("$", "").replace("−", "-").replace(" ", "")
    cleaned = cleaned.rstrip("%")
    if not cleaned or len(cleaned) > MAX_DIGITS or not re.fullmatch(r"[-+]?\d+(\.\d+)?(/\d+)?", cleaned):
        return None
    numerator, _, denominator = cleaned.partition("/")
    if denominator and int(denominator) == 0:
        return None
    return str(Fraction(numerator) / Fraction(denominator or "1"))


def last_number(text: str) -> str | None:
    """The last number in `text` in canonical form."""
    for match in reversed(list(_NUMBER.finditer(text[-MAX_SCAN_CHARS:]))):
        if (number := canonical_number(match.group())) is not None:
            return number
    return None


def extract(text: str, kind: Kind | None = None) -> str | None:
    """The canonical answer of a reply, or None where it has none that can be compared.

    With `kind` only an answer of that kind counts. Without it: an explicit marker ("Answer: ...",
    "#### ...", a boxed term) wins, then JSON, then the last number, then a short text as a whole.
    """
    tail = text[-MAX_SCAN_CHARS:].strip()
    if not tail:
        return None
    marked = _marked(tail)
    if kind is None:
        candidate = marked if marked is not None else tail
        return (
            _json(candidate)
            or (canonical_number(candidate) or _choice(candidate) if marked is not None else None)
            or (_leading_number(candidate) if marked is not None else last_number(candidate))
            or _short(candidate)
        )
    source = marked if marked is not None else tail
    if kind == "number":
        return canonical_number(source) or last_number(source)
    if kind == "choice":
        return _choice(source) or _choice(tail)
    if kind == "json":
        return _json(source) or _json(tail)
    return _short(source)


def matches(answer: str | None, references: Iterable[str]) -> bool:
    """Whether an extracted answer equals one of the references (given as plain text)."""
    return answer is not None and any(answer == extract(f"Answer: {reference}") for reference in references)


def _marked(text: str) -> str | None:
    if (boxed := _boxed(text)) is not None:
        return boxed
    for match in reversed(list(_MARKER.finditer(text))):
        line = text[match.end() :].split("\n", 1)[0]
        if candidate := _SENTENCE_END.split(line, maxsplit=1)[0].strip(" *_`"):
            return candidate
    return None


def _boxed(text: str) -> str | None:
    """Content of the last `\\boxed{...}`, braces balanced."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 1, start + len("\\boxed{")
    for position in range(begin, min(len(text), begin + 2 * MAX_ANSWER_CHARS)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return _FRAC.sub(r"\1/\2", text[begin:position])
    return None


def _leading_number(text: str) -> str | None:
    """A number that begins a marked answer: "42 apples", or ends its equation: "3 + 4 = 7"."""
    after_equals = text.rsplit("=", 1)[-1]
    match = _NUMBER.search(after_equals[:MAX_ANSWER_CHARS])
    return canonical_number(match.group()) if match else None


def _choice(text: str) -> str | None:
    match = _CHOICE.match(text.strip(" *_`"))
    # "A" alone, "A)", "(B) because": but not the article of "A cat".
    if match is None:
        return None
    bare = text.strip(_TRIM)
    return (
        match.group(1).upper()
        if len(bare) == 1 or text.strip(" *_`")[1:2] in ").:" or text[0] == "("
        else None
    )


def _json(text: str) -> str | None:
    stripped = text.strip().removeprefix("```json").removeprefix("```").removesuffix("```").strip()
    if not stripped or stripped[0] not in "{[":
        return None
    try:
        return json.dumps(json.loads(stripped), sort_keys=True, separators=(",", ":"))
    except (ValueError, RecursionError):
        return None


def _short(text: str) -> str | None:
    if len(text) > MAX_ANSWER_CHARS or "\n" in text.strip():
        return None
    return " ".join(text.strip(_TRIM).casefold().split()) or None
