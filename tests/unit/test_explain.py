"""What a check that failed is told to whoever writes the next reply."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.verifiers.base import VerifySpec
from backends.verifiers.caller import compile_check
from backends.verifiers.explain import MAX_PART_CHARS, explain, wrong_sums

SCHEMA = VerifySpec(
    "json_schema",
    schema={
        "type": "object",
        "properties": {"age": {"type": "integer", "minimum": 0}},
        "required": ["age"],
    },
)


@pytest.mark.parametrize(
    ("spec", "text", "said"),
    [
        (VerifySpec("regex", pattern="^[A-Z]+$"), "abc", "regular expression ^[A-Z]+$"),
        (VerifySpec("choice", choices=("red", "blue")), "green", "one of: red, blue"),
        (VerifySpec("number", minimum=1, maximum=10), "12", "a number from 1 to 10; the reply says 12."),
        (VerifySpec("number", minimum=1.5), "1", "of at least 1.5; the reply says 1."),
        (VerifySpec("number", maximum=1000), "2000", "of at most 1000; the reply says 2000."),
        (VerifySpec("number", integer=True), "0.5", "a whole number; the reply says 1/2."),
        (VerifySpec("number"), "none", "a number; the reply has no number."),
        (SCHEMA, "I am 7 years old.", "one JSON value and nothing else"),
        (SCHEMA, '{"name": "Ada"}', "'age' is a required property"),
        (SCHEMA, '{"age": -1}', "$.age: -1 is less than the minimum of 0"),
        (SCHEMA, '{"age": "seven"}', "$.age: 'seven' is not of type 'integer'"),
    ],
)
def test_the_reason_is_named(spec: VerifySpec, text: str, said: str) -> None:
    assert not compile_check(spec)(text)
    assert said in explain(spec, text)


def test_a_schema_that_cannot_be_carried_out_is_only_named() -> None:
    spec = VerifySpec("json_schema", schema={"$ref": "https://example.com/schema.json"})
    assert "does not fit the schema" in explain(spec, "{}")


@given(st.text(max_size=200), st.text(max_size=2000))
def test_long_parts_are_cut(text: str, choice: str) -> None:
    assert len(explain(VerifySpec("choice", choices=(choice,)), text)) < MAX_PART_CHARS + 60
    assert explain(SCHEMA, text)


def test_wrong_sums_are_quoted_and_right_ones_are_not() -> None:
    assert wrong_sums("3 + 4 = 7 and 2 * 3 = 5, so 7 - 5 = 2.") == "This does not hold: 2 * 3 = 5."
    assert wrong_sums("3 + 4 = 7") is None
    assert wrong_sums("no sums here") is None
    many = wrong_sums(" and ".join(f"{n} + 1 = {n}" for n in range(20)))
    assert many is not None
    assert many.count("=") == 3


def test_a_long_value_in_an_error_is_cut() -> None:
    said = explain(SCHEMA, '{"age": "' + "x" * 5000 + '"}')
    assert len(said) < 2 * MAX_PART_CHARS + 60
