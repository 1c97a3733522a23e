"""The caller's own check, compiled once a request: regex (RE2), JSON schema, number or choice."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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

MAX_PATTERN_CHARS = 1024
MAX_SCHEMA_BYTES = 8192
MAX_CHOICES = 64
MAX_CHOICE_CHARS = 256
MAX_SCHEMA_STEPS = 20_000  # applications of a keyword: a quarter of a second at most


def answer_kind(spec: VerifySpec | None) -> Kind | None:
    """The kind of answer that a check asks for, so that extraction looks for just that."""
    kinds: dict[str, Kind] = {"number": "number", "json_schema": "json"}
    return kinds.get(spec.type) if spec else None


def compile_check(spec: VerifySpec) -> Check:
    """A function from a reply's text to pass or fail. Raises InvalidVerifier.

    Patterns run on RE2, which is linear in its input, and schemas in a bounded number of steps, so a caller's
    check cannot stall a replica.
    """
    if spec.type == "regex":
        return _regex(spec.pattern or "")
    if spec.type == "json_schema":
        return _json_schema(spec.schema if spec.schema is not None else {})
    if spec.type == "number":
        _check_range(spec)
        return lambda text: _number(spec, text)
    if spec.type != "choice":
        raise InvalidVerifier(f"verify.type is {spec.type!r}; use regex, json_schema, number or choice")
    return _choices(spec.choices)


def _compile_pattern(pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 8 << 20
    return re2.compile(pattern, options)


def _regex(pattern: str) -> Check:
    if len(pattern) > MAX_PATTERN_CHARS:
        raise InvalidVerifier(f"verify.pattern should have at most {MAX_PATTERN_CHARS} characters")
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


class TooManySteps(Exception):
    """An answer takes longer to check than any that was meant to pass."""


@dataclass(slots=True)
class _Steps:
    left: int = MAX_SCHEMA_STEPS

    def count(self, name: str, keyword: Any) -> Any:
        """The keyword, counted each time that it is applied, with what it goes through by itself."""

        def counted(validator: Any, value: Any, instance: Any, schema: Any) -> Any:
            self.left -= 1 + (len(value) if isinstance(value, list) else 0)
            if name == "uniqueItems" and isinstance(instance, list):
                self.left -= len(instance) ** 2 // 64  # it compares items that cannot be sorted pair by pair
            if self.left < 0:
                raise TooManySteps
            return keyword(validator, value, instance, schema)

        return counted


def schema_validator(schema: dict[str, Any], steps: _Steps | None = None) -> Any:
    """A validator that runs no backtracking pattern, fetches nothing, and raises TooManySteps in time.

    Raises InvalidVerifier.
    """
    try:
        text = json.dumps(schema, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise InvalidVerifier("verify.schema is not JSON, or is nested too deeply") from None
    if len(text) > MAX_SCHEMA_BYTES:
        raise InvalidVerifier(f"verify.schema should have at most {MAX_SCHEMA_BYTES} bytes")
    if '"patternProperties"' in text:
        raise InvalidVerifier("verify.schema uses patternProperties, which is not offered; use properties")
    try:
        _SchemaValidator.check_schema(schema)
        _compile_patterns(schema)
    except jsonschema.SchemaError as error:
        raise InvalidVerifier(f"verify.schema is not a valid JSON schema: {error.message[:200]}") from None
    except RecursionError:
        raise InvalidVerifier("verify.schema is nested too deeply") from None
    counter = steps or _Steps()
    keywords = {name: counter.count(name, keyword) for name, keyword in _SchemaValidator.VALIDATORS.items()}
    bounded = jsonschema.validators.extend(_SchemaValidator, keywords)  # type: ignore[no-untyped-call]
    # An explicit empty registry: a "$ref" to elsewhere must never be fetched.
    return bounded(schema, registry=referencing.Registry())


def _compile_patterns(node: Any) -> None:
    """Raises InvalidVerifier for a "pattern" that is none; data (const, enum) is not looked at."""
    if isinstance(node, list):
        for child in node:
            _compile_patterns(child)
    if isinstance(node, dict):
        if isinstance(node.get("pattern"), str):
            _regex(node["pattern"])
        for name, child in node.items():
            if name not in ("const", "enum", "default", "examples"):
                _compile_patterns(child)


def _json_schema(schema: dict[str, Any]) -> Check:
    steps = _Steps()
    validator = schema_validator(schema, steps)

    def check(text: str) -> bool:
        found = extract(text, "json")
        if found is None:
            return False
        steps.left = MAX_SCHEMA_STEPS
        try:
            return bool(validator.is_valid(json.loads(found)))
        except (RecursionError, re2.error, referencing.exceptions.Unresolvable, TooManySteps):
            return False

    return check


def _check_range(spec: VerifySpec) -> None:
    for name, bound in (("minimum", spec.minimum), ("maximum", spec.maximum)):
        if bound is not None and not math.isfinite(bound):
            raise InvalidVerifier(f"verify.{name} is {bound}; give a number, or leave it out")
    if spec.minimum is not None and spec.maximum is not None and spec.minimum > spec.maximum:
        raise InvalidVerifier("verify.minimum is above verify.maximum: no number passes")


def _choices(choices: tuple[str, ...]) -> Check:
    wanted = {choice.casefold().strip() for choice in choices}
    if not wanted or "" in wanted:
        raise InvalidVerifier("verify.choices is empty, or one of them is; name what may be answered")
    if len(choices) > MAX_CHOICES or max(map(len, choices)) > MAX_CHOICE_CHARS:
        raise InvalidVerifier(
            f"verify.choices should be at most {MAX_CHOICES}, of at most {MAX_CHOICE_CHARS} characters each"
        )
    return lambda text: _choice(wanted, text)


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
