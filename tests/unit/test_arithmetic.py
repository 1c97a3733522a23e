"""Arithmetic in replies, re-checked without running anything."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.task import Sample
from backends.verifiers.arithmetic import arithmetic, evaluate, share_that_holds, statements
from tests.tasks import run_on, says, task


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("3 + 4 = 7.", 1.0),
        ("3 + 4 = 8", 0.0),
        ("So 12 * 3 = 36, and 36 / 5 = 7.2.", 1.0),
        ("First 3 + 4 = 7\nthen 7 * 2 = 15", 0.5),
        ("12 - 5 = 7 - 2 = 5", 0.5),
        ("(2+3)*4 = 20 = 4*5", 1.0),
        ("(3 + 4 = 7)", 1.0),
        ("1. 3 + 4 = 7\n2) 5 + 5 = 11", 0.5),
        ("10/3 = 3.33", 1.0),
        ("10/3 = 3.34", 0.0),
        ("2^10 = 1024 and 2**3 = 8", 1.0),
        ("1,000 + 2,000 = 3,000", 1.0),
        ("$5 + $6 = $11", 1.0),
        (r"$3 \times 4 = 12$", 1.0),
        (r"\(\frac{1}{2} + \frac{1}{4} = \frac{3}{4}\)", 1.0),
        ("8 ÷ 2 = 4 and 3 × 3 = 9 and 4 x 5 = 20 and 5 − 2 = 3", 1.0),
        ("3 + 4 = 7 apples", 1.0),
        ("-3 - 4 = -7", 1.0),
    ],
)
def test_the_share_of_statements_that_hold(text: str, share: float) -> None:
    assert share_that_holds(text) == share


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no arithmetic",
        "x = 5",
        "5 = 5",
        "3x + 2 = 11",
        "2 + 2 = 4y",
        "2 + 2 = 2 * y",
        "5 apples + 3 = 8 apples",
        "x - 3 + 1 = 5",
        "We have 20% + 3 = 5",
        "3 + 4 == 8",
        "3 + 4 = x",
        "1/0 = 0",
        "9^9^9 = 1",
        "2^65 = 1",
        "2^0.5 = 1.5",
        "7! = 5041",
        "v1.2.3 = 4",
        "12345678901234567890123 + 1 = 2",
        "__import__('os') = 1 + 1",
    ],
)
def test_what_cannot_be_checked_is_no_statement(text: str) -> None:
    assert share_that_holds(text) is None


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("2 ^ 3 ^ 2", 512),
        ("-2 ^ 2", -4),
        ("8 / 4 / 2", 1),
        ("1 - 2 - 3", -4),
        ("2 * -3", -6),
        ("2 ^ -1", Fraction(1, 2)),
        ("((((1))))", 1),
        (".5 + 0.25", Fraction(3, 4)),
    ],
)
def test_precedence(expression: str, value: Fraction) -> None:
    assert evaluate(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "1 +",
        "(1",
        "1)",
        "1 2",
        "a",
        "1 // 2",
        "1; 2",
        "0 ^ -1",
        "(" * 40 + "1" + ")" * 40,
        "1..2",
        "-" * 50 + "1",
    ],
)
def test_what_is_no_expression_has_no_value(expression: str) -> None:
    assert evaluate(expression) is None


@given(
    st.lists(st.tuples(st.sampled_from("+-*"), st.integers(0, 999)), min_size=1, max_size=6),
    st.integers(0, 999),
)
def test_it_agrees_with_python_on_whole_numbers(parts: list[tuple[str, int]], first: int) -> None:
    expression = str(first) + "".join(f" {sign} {number}" for sign, number in parts)
    value = eval(expression, {"__builtins__": {}})  # noqa: S307  digits and signs of our own
    assert evaluate(expression) == value
    assert share_that_holds(f"So {expression} = {value}") == 1.0
    assert share_that_holds(f"So {expression} = {value + 1}") == 0.0


@given(st.text(alphabet="0123456789+-*/^().= x\n,$\\{}", max_size=400))
def test_any_text_is_taken(text: str) -> None:
    share = share_that_holds(text)
    assert share is None or 0.0 <= share <= 1.0
    assert all("=" not in side for pair in statements(text) for side in pair)


@pytest.mark.parametrize(
    "text", ["(" * 16000, "1+" * 8000, "1+1=" * 4000, "\n" * 16000, " " * 16000, "1 " * 8000]
)
def test_a_long_reply_does_not_hold_up_the_others(text: str) -> None:
    began = time.process_time()
    share_that_holds(text)
    assert time.process_time() - began < 3  # it takes a tenth; a quadratic pattern would take minutes


async def test_as_a_scorer() -> None:
    run = await run_on(says("x"), task())
    replies = [Sample(text, None, "stop", 3) for text in ("3 + 4 = 7", "3 + 4 = 8", "seven")]
    assert await arithmetic(run, replies) == [1.0, 0.0, None]
    assert run.calls == []
