"""What a caller's check asked for and a reply did not give, as a sentence for whoever writes the next one."""

from __future__ import annotations

import json

import jsonschema
import re2
import referencing.exceptions

from backends.answers import extract
from backends.verifiers.arithmetic import holds, statements
from backends.verifiers.base import VerifySpec
from backends.verifiers.caller import TooManySteps, schema_validator

MAX_SUMS = 3
MAX_PART_CHARS = 300  # of a pattern, of the choices, of what a schema says


def explain(spec: VerifySpec, text: str) -> str:
    """Why `text`, which failed the check, failed it. Raises InvalidVerifier for a schema that is none."""
    if spec.type == "regex":
        return f"The reply must match the regular expression {_short(spec.pattern or '')}"
    if spec.type == "json_schema":
        return _schema(spec, text)
    if spec.type == "number":
        return _number(spec, text)
    return f"The answer must be one of: {_short(', '.join(spec.choices))}"


def wrong_sums(text: str) -> str | None:
    """The first arithmetic statements of a reply that do not hold, None where all of them do."""
    wrong = [f"{left} = {right}" for left, right in statements(text) if holds(left, right) is False]
    return f"This does not hold: {_short('; '.join(wrong[:MAX_SUMS]))}." if wrong else None


def _schema(spec: VerifySpec, text: str) -> str:
    found = extract(text, "json")
    if found is None:
        return "The reply must be one JSON value and nothing else, and it is not."
    validator = schema_validator(spec.schema if spec.schema is not None else {})
    try:
        error = jsonschema.exceptions.best_match(validator.iter_errors(json.loads(found)))
    except (RecursionError, re2.error, referencing.exceptions.Unresolvable, TooManySteps):
        error = None  # the check cannot be carried out; all that is known is that it failed
    if error is None:
        return "The JSON does not fit the schema that was asked for."
    return f"The JSON does not fit its schema at {_short(error.json_path)}: {_short(error.message)}"


def _number(spec: VerifySpec, text: str) -> str:
    kind = "whole number" if spec.integer else "number"
    low, high = spec.minimum, spec.maximum
    if low is not None and high is not None:
        kind += f" from {low:g} to {high:g}"
    elif low is not None:
        kind += f" of at least {low:g}"
    elif high is not None:
        kind += f" of at most {high:g}"
    found = extract(text, "number")
    given = "the reply has no number" if found is None else f"the reply says {found}"
    return f"The answer must be a {kind}; {given}."


def _short(text: str) -> str:
    return text if len(text) <= MAX_PART_CHARS else text[:MAX_PART_CHARS] + "..."
