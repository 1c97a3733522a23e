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


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        (VerifySpec("regex", pattern="a" * 1025), "pattern"),
        (VerifySpec("regex", pattern="(a{1000}){1000}"), "RE2"),
        (VerifySpec("json_schema", schema={"enum": ["x" * 9000]}), "bytes"),
        (VerifySpec("json_schema", schema={"maximum": float("nan")}), "JSON"),
        (VerifySpec("json_schema", schema={"enum": [{1, 2}]}), "JSON"),
        (VerifySpec("json_schema", schema={"pattern": "("}), "regex"),
        (VerifySpec("json_schema", schema={"properties": {"a": {"pattern": "(?=x)"}}}), "RE2"),
        (VerifySpec("json_schema", schema={"properties": 3}), "schema"),
        (VerifySpec("number", minimum=float("nan")), "minimum"),
        (VerifySpec("number", maximum=float("inf")), "maximum"),
        (VerifySpec("number", minimum=2, maximum=1), "above"),
        (VerifySpec("choice", choices=("yes", " ")), "empty"),
        (VerifySpec("choice", choices=("x",) * 65), "64"),
        (VerifySpec("choice", choices=("x" * 257,)), "256"),
        (VerifySpec("python", pattern="1"), "python"),  # type: ignore[arg-type]
    ],
)
def test_bad_checks_are_refused_with_the_reason(spec: VerifySpec, names: str) -> None:
    with pytest.raises(InvalidVerifier, match=names):
        compile_check(spec)


def test_a_schema_nested_beyond_recursion_is_refused() -> None:
    schema: dict[str, object] = {}
    for _ in range(2000):
        schema = {"not": schema}
    with pytest.raises(InvalidVerifier, match=r"verify\.schema"):
        compile_check(VerifySpec("json_schema", schema=schema))


def test_a_pattern_in_data_is_no_pattern() -> None:
    check = compile_check(VerifySpec("json_schema", schema={"const": {"pattern": "("}}))
    assert check('{"pattern": "("}')


DOUBLING = {
    "$defs": {
        **{f"a{i}": {"anyOf": [{"$ref": f"#/$defs/a{i + 1}"}] * 2} for i in range(40)},
        "a40": {"type": "string"},
    },
    "$ref": "#/$defs/a0",
}


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        (DOUBLING, "[1]"),
        ({"$ref": "#"}, "[1]"),
        ({"items": {"anyOf": [{"type": "string"}] * 100}}, "[" + "1," * 5000 + "1]"),
        ({"items": {"enum": list(range(1000))}}, "[" + "-1," * 4000 + "-1]"),
        ({"uniqueItems": True}, "[" + ",".join(f'{i},{{"a":{i}}}' for i in range(900)) + "]"),
    ],
)
def test_a_schema_that_would_take_long_fails_in_time(schema: dict[str, object], text: str) -> None:
    check = compile_check(VerifySpec("json_schema", schema=schema))
    began = time.process_time()
    assert not check(text)
    assert not check(text)
    assert time.process_time() - began < 5  # without the bound, the first would never end


def test_a_long_answer_that_fits_passes_every_time() -> None:
    check = compile_check(VerifySpec("json_schema", schema={"type": "array", "items": {"type": "integer"}}))
    text = "[" + ",".join("7" for _ in range(5000)) + "]"
    assert check(text)
    assert check(text)
