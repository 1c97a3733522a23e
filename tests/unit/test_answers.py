"""Answers are found where people write them, and equal ones have equal forms."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.answers import canonical_number, extract, last_number, matches


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("3 + 4 = 7", "7"),
        ("The answer is 1,000.", "1000"),
        ("Answer: 42 apples", "42"),
        ("so we get\n#### 18", "18"),
        (r"thus \boxed{\frac{1}{2}}", "1/2"),
        (r"thus \boxed{12}. Done.", "12"),
        ("Answer: (B) because it is", "B"),
        ("Answer: B", "B"),
        ("Answer: A cat", "a cat"),
        ("Paris", "paris"),
        ("The answer is: Paris", "paris"),
        ('{"b": 1, "a": 2}', '{"a":2,"b":1}'),
        ('```json\n{"a": 2}\n```', '{"a":2}'),
        ("First 12, then\nAnswer: 3 + 4 = 7", "7"),
        ("the answer is: **15**", "15"),
        ("x = 0.50", "1/2"),
        ("Answer: -3", "-3"),
        ("10 - 3 = 7.", "7"),
        ("I think 5, maybe 6.", "6"),
        ("the answer is 3. No wait, the answer is 4.", "4"),
        ("The answer is Paris. Paris is a city in France.", "paris"),
        ("**Answer:** 3.5 kg", "7/2"),
        ("", None),
        ("   \n ", None),
        ("word " * 100, None),
        ("one line\nand another", None),
    ],
)
def test_extract_finds_the_answer(text: str, answer: str | None) -> None:
    assert extract(text) == answer


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("1,000", "1000.0"),
        ("$5", "5"),
        ("1/2", "0.5"),
        ("50%", "50"),
        ("+7", "7"),
        ("−2", "-2"),
        ("007", "7"),
    ],
)
def test_equivalent_numbers_have_one_form(left: str, right: str) -> None:
    assert canonical_number(left) == canonical_number(right) is not None


@pytest.mark.parametrize(
    "text", ["", "abc", "1/0", "1e999", "9" * 41, "--1", "1.2.3", "0x10", "__import__('os')"]
)
def test_what_is_not_a_bounded_number_is_none(text: str) -> None:
    assert canonical_number(text) is None


def test_a_kind_looks_for_just_that() -> None:
    assert extract("Answer: Paris in 1889", "number") == "1889"
    assert extract("no digits here", "number") is None
    assert extract("(C) is right", "choice") == "C"
    assert extract("it is [1, 2]", "json") is None
    assert extract("[1, 2]", "json") == "[1,2]"


def test_a_number_is_not_torn_out_of_a_word() -> None:
    assert last_number("model X9000 has 3 wheels and a v2 engine") == "3"


def test_matches_compares_canonical_forms() -> None:
    assert matches(extract("The total is 1,200."), ["1200"])
    assert matches("yes", ["Yes"])
    assert not matches("13", ["12"])
    assert not matches(None, ["12"])


@given(st.text(max_size=3000))
def test_extract_takes_any_text(text: str) -> None:
    found = extract(text)
    assert found is None or (found and len(found) <= 3000)


@given(st.integers(min_value=-(10**12), max_value=10**12))
def test_a_stated_integer_is_read_back(number: int) -> None:
    assert extract(f"The answer is {number:,}.") == str(number)
    assert extract(f"Adding up we get {number}") == str(number)
