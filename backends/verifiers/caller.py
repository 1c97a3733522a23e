"""The caller's own check, compiled once a request: regex (RE2), JSON schema, number or choice."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import jsonschema
import re2
import referencing
import referencing.exceptions

from backends.answers import Kind, extract
from backends.errors import InvalidVerifier
from backends.verifiers.base import VerifySpec

Check = Callable[[str], bool]


def answer_kind(spec: VerifySpec | None) -> Kind | None:
    """The kind of answer that a check asks for, so that extraction looks for just that."""
    kinds: dict[str, Kind] = {"number": "number", "json_schema": "json"}
    return kinds.get(spec.type) if spec else None


def compile_check(spec: VerifySpec) -> Check:
    """A function from a reply's text to pass or fail. Raises InvalidVerifier.

    Patterns run on RE2, which is linear in its input, so a caller's pattern cannot stall a replica.
    """
    if spec.type == "regex":
        return _regex(spec.pattern or "")
    if spec.type == "json_schema":
        return _json_schema(spec.schema if spec.schema is not None else {})
    if spec.type == "number":
        return lambda text: _number(spec, text)
    wanted = {choice.casefold().strip() for choice in spec.choices}
    if not wanted:
        raise InvalidVerifier("verify.choices is empty; name at least one")
    return lambda text: _choice(wanted, text)


def _compile_pattern(pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 8 << 20
    return re2.compile(pattern, options)


def _regex(pattern: str) -> Check:
    try:
        compiled = _compile_pattern(pattern)
    except re2.error as error:
        raise InvalidVerifier(f"verify.pattern is not a valid RE2 expression: {error}") from None
    return lambda text: compiled.search(text) is not None


def _schema_pattern(
    validator: Any, pattern: str, instance: Any, schema: Any
) -> Iterator[jsonschema.ValidationError]:
    if isinstance(instance, str) and not _compile_pattern(pattern).search(instance):
        yield jsonschema.ValidationError(f"does not match {pattern!r}")


# jsonschema would run a caller's "pattern" on Python's backtracking `re`.
_SchemaValidator = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"pattern": _schema_pattern})  # type: ignore[no-untyped-call]


def _json_schema(schema: dict[str, Any]) -> Check:
    text = json.dumps(schema)
    if '"patternProperties"' in text:
        raise InvalidVerifier("verify.schema uses patternProperties, which is not offered; use properties")
    try:
        _SchemaValidator.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise InvalidVerifier(f"verify.schema is not a valid JSON schema: {error.message}") from None
    # An explicit empty registry: a "$ref" to elsewhere must never be fetched.
    validator = _SchemaValidator(schema, registry=referencing.Registry())

    def check(text: str) -> bool:
        found = extract(text, "json")
        if found is None:
            return False
        try:
            return bool(validator.is_valid(json.loads(found)))
        except (RecursionError, re2.error, referencing.exceptions.Unresolvable):
            return False

    return check


def _number(spec: VerifySpec, text: str) -> bool:
    found = extract(text, "number")
    if found is None:
        return False
    value = Fraction(found)
    return (
        (spec.minimum is None or value >= Fraction(spec.minimum))
        and (spec.maximum is None or value <= Fraction(spec.maximum))
        and (not spec.integer or value.denominator == 1)
    )


def _choice(wanted: set[str], text: str) -> bool:
    candidates = (extract(text), extract(text, "choice"), extract(text, "text"), text.strip())
    return any(c is not None and c.casefold().strip() in wanted for c in candidates)
