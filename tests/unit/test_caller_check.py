"""The caller's own check: what it accepts, and that it cannot hurt the service."""

from __future__ import annotations

import time

import pytest

from backends.errors import InvalidVerifier
from backends.verifiers.base import VerifySpec
from backends.verifiers.caller import compile_check


def test_regex_searches_the_reply() -> None:
    check = compile_check(VerifySpec("regex", pattern=r"\b[A-Z]{3}-\d{4}\b"))
    assert check("the code is ABC-1234.")
    assert not check("the code is abc-1234.")


@pytest.mark.parametrize("pattern", ["(", "a{2,1}", r"(?=x)", r"(a)\1"])
def test_a_pattern_that_does_not_compile_is_named(pattern: str) -> None:
    with pytest.raises(InvalidVerifier, match="RE2"):
        compile_check(VerifySpec("regex", pattern=pattern))


def test_a_pattern_made_to_backtrack_is_linear() -> None:
    check = compile_check(VerifySpec("regex", pattern=r"^(a+)+$"))
    began = time.process_time()
    assert not check("a" * 5000 + "b")
    assert time.process_time() - began < 5  # Python's `re` would need longer than the universe is old


def test_a_schema_pattern_is_linear_too() -> None:
    check = compile_check(
        VerifySpec("json_schema", schema={"type": "array", "items": {"pattern": "^(a+)+$"}})
    )
    began = time.process_time()
    assert not check('["' + "a" * 5000 + 'b"]')
    assert check('["aaa"]')
    assert time.process_time() - began < 5


def test_json_schema() -> None:
    schema = {"type": "object", "required": ["total"], "properties": {"total": {"type": "integer"}}}
    check = compile_check(VerifySpec("json_schema", schema=schema))
    assert check('{"total": 3}')
    assert check('```json\n{"total": 3}\n```')
    assert not check('{"total": "3"}')
    assert not check("no json at all")


@pytest.mark.parametrize("schema", [{"type": "nonsense"}, {"patternProperties": {"(a+)+$": {}}}])
def test_a_bad_schema_is_named(schema: dict[str, object]) -> None:
    with pytest.raises(InvalidVerifier, match=r"verify\.schema"):
        compile_check(VerifySpec("json_schema", schema=schema))


def test_a_remote_reference_is_never_fetched() -> None:
    check = compile_check(VerifySpec("json_schema", schema={"$ref": "http://127.0.0.1:9/schema.json"}))
    assert not check('{"a": 1}')


def test_numbers() -> None:
    check = compile_check(VerifySpec("number", minimum=1, maximum=10, integer=True))
    assert check("The answer is 7.")
    assert not check("The answer is 7.5.")
    assert not check("The answer is 11.")
    assert not check("no number")


def test_choices() -> None:
    check = compile_check(VerifySpec("choice", choices=("Yes", "No")))
    assert check("yes")
    assert check("Answer: No")
    assert not check("maybe")
    with pytest.raises(InvalidVerifier, match="empty"):
        compile_check(VerifySpec("choice"))
