"""Where a reply's answer stands, and what kind of answer it is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, Literal

from backends.answers.latex import canonical_latex, formulas, looks_like_latex
from backends.answers.limits import MAX_ANSWER_CHARS, MAX_SCAN_CHARS
from backends.answers.number import NUMBER, TRIM, canonical_number, last_number

Kind = Literal["number", "choice", "latex", "json", "text"]

_MARKER = re.compile(r"(?:\b(?:answer|result)\b[*_`]*\s*(?:is\b\s*:?|[:=])|####)\s*", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?](?:\s|$)")
_CHOICE = re.compile(r"^(?:(?:option|choice)\s+)?\(?([A-Ja-j])[).:]?(?:\s|$)", re.IGNORECASE)
_FENCE = re.compile(r"```(?:json)?[ \t]*\n(.*?)```", re.DOTALL)
_OPERATION = re.compile(r"^[^=<>]*[\w)\]]\s*[-+*^=<>]\s*[-\w(\[]")
_MEASURE = re.compile(r"\d\s+[a-zA-Z]")  # "-3 C" is a number with its unit
_BACKSLASHED = re.compile(r"\\[a-zA-Z]")


def extract(text: str, kind: Kind | None = None) -> str | None:
    """The canonical answer of a reply, or None where it has none that can be compared.

    With `kind` only an answer of that kind counts. Without it: an explicit marker ("Answer: ...",
    "#### ...", a boxed term) wins, then JSON, then a last formula or number, then a short text as a whole.
    """
    tail = text[-MAX_SCAN_CHARS:].strip()
    if not tail:
        return None
    boxed = _boxed(tail)
    marked = boxed if boxed is not None else _marked(tail)
    source = marked if marked is not None else tail
    if kind == "number":
        return _formula_number(source) or canonical_number(source) or last_number(source)
    if kind == "choice":
        return _choice(_plain(source)) or _choice(tail)
    if kind == "json":
        return _json(source) or _json(tail)
    if kind == "latex":
        return canonical_latex(source) or _last_formula(source)
    if kind == "text":
        return _short(_plain(source))
    if marked is None:
        return _json(tail) or _formula_last(tail) or last_number(tail) or _short(tail)
    return (
        _json(marked)
        or canonical_number_or_list(marked)
        or _choice(_plain(marked))
        or (canonical_latex(marked) if boxed is not None else _formula(marked))
        or _leading_number(marked)
        or _short(_plain(marked))
    )


def matches(answer: str | None, references: Iterable[str]) -> bool:
    """Whether an extracted answer equals one of the references (given as plain text)."""
    return answer is not None and any(answer == extract(f"Answer: {reference}") for reference in references)


def canonical_number_or_list(text: str) -> str | None:
    """A number, or a tuple or interval, which begins with a number but is none."""
    if re.fullmatch(r"\s*[\[(][^a-zA-Z]*,[^a-zA-Z]*[\])]\s*\.?\s*", text):
        return canonical_latex(text)
    return canonical_number(text)


def _marked(text: str) -> str | None:
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
            return text[begin:position]
    return None


def _formula(text: str) -> str | None:
    """The formula of a marked answer: between dollars, spelled with commands, or plain as "2x + 3"."""
    if inside := formulas(text):
        return canonical_latex(inside[0])
    if not _BACKSLASHED.search(text) and (not _OPERATION.search(text) or _MEASURE.search(text)):
        return None
    found = canonical_latex(text)
    return found if found is not None and looks_like_latex(found) else None


def _last_formula(text: str) -> str | None:
    inside = formulas(text)
    return canonical_latex(inside[-1]) if inside else None


def _formula_last(text: str) -> str | None:
    r"""The formula after the last number, or around it: of `\frac{1}{2}` the number alone would be the 2."""
    inside = formulas(text)
    if not inside or not _BACKSLASHED.search(inside[-1]):
        return None
    after = text[text.rfind(inside[-1]) + len(inside[-1]) :]
    return None if NUMBER.search(after) else canonical_latex(inside[-1])


def _formula_number(text: str) -> str | None:
    r"""The number that a formula is (`\frac{1}{2}`), which must not be read off its last digits."""
    if "\\" not in text:
        return None
    found = canonical_latex(text) or _last_formula(text)
    return canonical_number(found) if found is not None else None


def _leading_number(text: str) -> str | None:
    """A number that begins a marked answer: "42 apples", or ends its equation: "3 + 4 = 7"."""
    after_equals = text.rsplit("=", 1)[-1]
    match = NUMBER.search(after_equals[:MAX_ANSWER_CHARS])
    return canonical_number(match.group()) if match else None


def _plain(text: str) -> str:
    r"""Text without `\text{}` around it, so that `\text{(B)}` is a choice."""
    return re.sub(r"^\s*\$?\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}\$?\s*$", r"\1", text)


def _choice(text: str) -> str | None:
    bare = text.strip(" *_`")
    match = _CHOICE.match(bare)
    # "A" alone, "A)", "(B) because", "option C": but not the article of "A cat".
    if match is None:
        return None
    named = bare[: match.start(1)].strip("( ") != ""
    lone = len(text.strip(TRIM)) == 1
    marked = bare[match.end(1) : match.end(1) + 1] in tuple(").:") or bare[0] == "("
    return match.group(1).upper() if named or lone or marked else None


def _json(text: str) -> str | None:
    stripped = text.strip()
    if stripped[:1] not in ("{", "["):
        fences = _FENCE.findall(stripped)
        stripped = fences[-1].strip() if fences else ""
        if stripped[:1] not in ("{", "["):
            return None
    try:
        value = json.loads(stripped, parse_constant=_refuse, parse_float=_decimal)
        return json.dumps(value, sort_keys=True, separators=(",", ":"))
    except (ValueError, RecursionError):
        return None


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _decimal(text: str) -> int | float:
    """2.0 as 2, so that equal numbers have equal forms; what no float holds (1e999) is refused."""
    value = float(text)
    if abs(value) == float("inf"):
        raise ValueError("the number is too large")
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _short(text: str) -> str | None:
    if len(text) > MAX_ANSWER_CHARS or "\n" in text.strip():
        return None
    return " ".join(text.strip(TRIM).casefold().split()) or None
