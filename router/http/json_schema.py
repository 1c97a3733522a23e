"""A caller's JSON Schema, bounded: checking an answer against it must take about as long as reading both.

References are what makes a small schema a large one: twenty that each name the next one twice are a million
subschemas. So they are followed here, may not be circular, and count.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from backends.errors import InvalidVerifier
from backends.verifiers.base import VerifySpec
from backends.verifiers.caller import compile_check

MAX_BYTES = 8192
MAX_DEPTH = 32
# The metaschema's check takes a quarter of a millisecond a part, on the event loop.
MAX_NODES = 200

# Keywords that point elsewhere, give references another meaning, evaluate a subschema again and again, or
# run on Python's backtracking patterns.
_NOT_OFFERED = frozenset(
    {
        "$id",
        "$anchor",
        "$dynamicRef",
        "$dynamicAnchor",
        "$recursiveRef",
        "$recursiveAnchor",
        "patternProperties",
        "unevaluatedItems",
        "unevaluatedProperties",
    }
)
_DRAFT = "https://json-schema.org/draft/2020-12/schema"


class SchemaRefused(ValueError):
    """The schema is none, too large, points out of itself, or is circular. The text says which."""


def check_schema(schema: dict[str, Any]) -> None:
    """Raise SchemaRefused unless it is a schema, and one that is bounded."""
    text = json.dumps(schema)
    if len(text) > MAX_BYTES:
        raise SchemaRefused(f"The schema should have at most {MAX_BYTES} bytes")
    _check_text(text)


# Callers send the same schema with every request; what was accepted once need not be checked again.
@lru_cache(maxsize=256)
def _check_text(text: str) -> None:
    schema = json.loads(text)
    _Walk(schema).visit(schema, 0, ())
    _compile(VerifySpec("json_schema", schema=schema))


def _compile(spec: VerifySpec) -> None:
    try:
        compile_check(spec)
    except InvalidVerifier as error:
        raise SchemaRefused(str(error)) from None


class _Walk:
    """Visits every node as often as a validator may; recursion is bounded by MAX_DEPTH."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._nodes = 0

    def visit(self, node: Any, depth: int, followed: tuple[str, ...]) -> None:
        if not isinstance(node, dict | list):
            return
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise SchemaRefused(f"The schema should have at most {MAX_NODES} parts, references followed")
        if depth > MAX_DEPTH:
            raise SchemaRefused(
                f"The schema should be nested at most {MAX_DEPTH} levels, references followed"
            )
        if isinstance(node, dict):
            self._check_keywords(node)
            if "$ref" in node:
                self._follow(node["$ref"], depth, followed)
        for child in node.values() if isinstance(node, dict) else node:
            self.visit(child, depth + 1, followed)

    def _check_keywords(self, node: dict[str, Any]) -> None:
        refused = sorted(_NOT_OFFERED.intersection(node))
        if refused:
            raise SchemaRefused(f"The schema should not use {refused[0]}: it is not offered")
        if node.get("$schema", _DRAFT) != _DRAFT:
            raise SchemaRefused("The schema should be of draft 2020-12")
        if isinstance(node.get("pattern"), str):
            _compile(VerifySpec("regex", pattern=node["pattern"]))

    def _follow(self, reference: Any, depth: int, followed: tuple[str, ...]) -> None:
        if reference in followed or reference == "#":
            raise SchemaRefused("The references of the schema should not be circular")
        target = self._root
        if not isinstance(reference, str) or not reference.startswith("#/"):
            raise SchemaRefused("Every $ref should point into the schema itself, as #/$defs/name")
        for step in unquote(reference[2:]).split("/"):
            name = step.replace("~1", "/").replace("~0", "~")
            if not isinstance(target, dict) or name not in target:
                raise SchemaRefused("Every $ref should point to a part that the schema has")
            target = target[name]
        self.visit(target, depth + 1, (*followed, reference))
