"""Arithmetic re-checked: does every `a op b = c` that a reply states hold?

An evaluator of our own over fractions, for digits, + - * / ^ and parentheses; nothing of Python's runs.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING

from backends.answers import MAX_SCAN_CHARS

if TYPE_CHECKING:
    from backends.strategies.base import Run
    from backends.task import Sample

MAX_DIGITS = 20  # a number's
MAX_EXPONENT = 64
MAX_BITS = 4096  # of a result; more is no arithmetic that a reply works out
MAX_DEPTH = 32
MAX_SIDE_CHARS = 200
MAX_STATEMENTS = 200
MAX_GAP_CHARS = 16  # of blanks between a word and an operator

OPERATORS = ("+", "-", "*", "/", "^")

_SPELLINGS = (
    (re.compile(r"\\(?:times|cdot)(?![a-zA-Z])|[×·∙]"), "*"),
    (re.compile(r"\\div(?![a-zA-Z])|÷"), "/"),
    (re.compile(r"\\[dt]?frac\s*\{([^{}]{1,60})\}\s*\{([^{}]{1,60})\}"), r"((\1)/(\2))"),
    (re.compile(r"\*\*(?=\s*\d)"), "^"),
    (re.compile(r"(?<=\d)\s*[xX]\s*(?=[\d(])"), "*"),
    (re.compile(r"[−–]"), "-"),
    (re.compile(r"\\left|\\right|\\[,;!()\[\]$]|[$€£]"), ""),
    (re.compile(r"^[ \t]*\d{1,3}[.)][ \t]+", re.MULTILINE), ""),  # the number of a list's item
    (re.compile(r"(?<=\d),(?=\d{3}(?!\d))"), ""),
)
# The characters that a side may hold; whatever else stands there ends it.
_SIDE = rf"[\d+\-*/^(). \t]{{1,{MAX_SIDE_CHARS}}}"
_CHAIN = re.compile(rf"(?<![\w\\=.^]){_SIDE}(?:=(?!=){_SIDE})+")
_BEFORE_WORD = re.compile(r"(?<! )[a-zA-Z_\\%!{]|=")
_TOKEN = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+|[-+*/^()])")
_OPERATION = re.compile(r"[\d)]\s*[-+*/^]\s*[-+(]*\s*[\d.]")


async def arithmetic(run: Run, replies: Sequence[Sample]) -> list[float | None]:
    """The share of a reply's arithmetic statements that hold, None for a reply that states none."""
    shares = []
    for reply in replies:
        shares.append(share_that_holds(reply.text))
        await asyncio.sleep(0)  # a long reply takes a tenth of a second; others have their turn between
    return shares


def share_that_holds(text: str) -> float | None:
    """Share of statements `expression = expression` that are true, of the last `MAX_STATEMENTS` in `text`.

    A side that is rounded counts as equal where it is right in the digits it shows. What is too large to
    check, divides by zero, or has letters in it is no statement. `a = b = c` is two.
    """
    verdicts = [verdict for left, right in statements(text) if (verdict := holds(left, right)) is not None]
    verdicts = verdicts[-MAX_STATEMENTS:]
    return sum(verdicts) / len(verdicts) if verdicts else None


def statements(text: str) -> list[tuple[str, str]]:
    """Pairs of sides with digits alone, of which one at least is an operation."""
    text = text[-MAX_SCAN_CHARS:]
    for pattern, spelling in _SPELLINGS:
        text = pattern.sub(spelling, text)
    pairs: list[tuple[str, str]] = []
    for chain in _CHAIN.finditer(text):
        sides = [side.strip() for side in chain.group().split("=")]
        # "5 apples + 3 = 8" and "2 + 2 = 2y" lose a part of a side to a word: those sides are not whole.
        before = text[max(0, chain.start() - MAX_GAP_CHARS) : chain.start()].rstrip(" \t")[-1:]
        if sides[0].startswith(OPERATORS) and (before.isalnum() or before in ("%", ")")):
            sides[0] = ""
        if _BEFORE_WORD.match(text, chain.end()) or sides[-1].endswith((*OPERATORS, "(")):
            sides[-1] = ""
        sides[0], sides[-1] = _opened(sides[0]), _closed(sides[-1].rstrip(". "))
        pairs += [pair for pair in pairwise(sides) if all(pair) and any(map(_OPERATION.search, pair))]
    return pairs


def holds(left: str, right: str) -> bool | None:
    """Whether two sides are equal; None where one cannot be evaluated."""
    one, other = evaluate(left), evaluate(right)
    if one is None or other is None:
        return None
    tolerance = max(_rounding(left), _rounding(right))
    return abs(one - other) <= tolerance


def evaluate(expression: str) -> Fraction | None:
    """The value of digits, + - * / ^ and parentheses; None for anything else, or out of bounds."""
    tokens: list[str] = []
    position, expression = 0, expression.strip()
    while position < len(expression):
        match = _TOKEN.match(expression, position)
        if match is None or len(match.group(1)) > MAX_DIGITS:
            return None
        tokens.append(match.group(1))
        position = match.end()
    try:
        parser = _Parser(tokens)
        value = parser.sum(0)
        return value if parser.finished else None
    except (_NotArithmetic, ZeroDivisionError):
        return None


class _NotArithmetic(Exception):
    """The tokens are no expression within bounds."""


class _Parser:
    """Recursive descent over tokens: sum -> product -> signed -> power -> atom; ^ binds to the right."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens = tokens
        self._at = 0

    @property
    def finished(self) -> bool:
        return self._at == len(self._tokens)

    def sum(self, depth: int) -> Fraction:
        value = self._product(depth)
        while (sign := self._take("+", "-")) is not None:
            term = self._product(depth)
            value = _bounded(value + term if sign == "+" else value - term)
        return value

    def _product(self, depth: int) -> Fraction:
        value = self._signed(depth)
        while (sign := self._take("*", "/")) is not None:
            factor = self._signed(depth)
            value = _bounded(value * factor if sign == "*" else value / factor)
        return value

    def _signed(self, depth: int) -> Fraction:
        if depth > MAX_DEPTH:
            raise _NotArithmetic
        sign = self._take("+", "-")
        if sign is not None:
            value = self._signed(depth + 1)
            return -value if sign == "-" else value
        base = self._atom(depth)
        return _power(base, self._signed(depth + 1)) if self._take("^") is not None else base

    def _atom(self, depth: int) -> Fraction:
        if self._take("(") is not None:
            value = self.sum(depth + 1)
            if self._take(")") is None:
                raise _NotArithmetic
            return value
        token = self._tokens[self._at] if not self.finished else ""
        if not token[-1:].isdigit():
            raise _NotArithmetic
        self._at += 1
        return Fraction(token)

    def _take(self, *wanted: str) -> str | None:
        if self.finished or self._tokens[self._at] not in wanted:
            return None
        self._at += 1
        return self._tokens[self._at - 1]


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1 or abs(exponent) > MAX_EXPONENT:
        raise _NotArithmetic
    _bounded(base)
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if bits * abs(int(exponent)) > MAX_BITS:
        raise _NotArithmetic
    return Fraction(base ** int(exponent))


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise _NotArithmetic
    return value


def _rounding(side: str) -> Fraction:
    """Half a unit of the last place of a lone decimal; 0 for a whole number or an operation."""
    match = re.fullmatch(r"\s*-?\d*\.(\d+)\s*", side)
    return Fraction(1, 2 * 10 ** len(match.group(1))) if match else Fraction(0)


def _opened(side: str) -> str:
    """The first side without a parenthesis that the whole statement stands in: "(3 + 4 = 7)"."""
    while side.startswith("(") and side.count("(") > side.count(")"):
        side = side[1:]
    return side


def _closed(side: str) -> str:
    while side.endswith(")") and side.count(")") > side.count("("):
        side = side[:-1].rstrip(". ")
    return side
