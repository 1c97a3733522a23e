"""The caller's own check of an answer, as data; `caller.py` compiles it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class VerifySpec:
    """`compute.verify` of a request. Only the fields of its `type` are set.

    regex: `pattern` (RE2 syntax, searched in the answer). json_schema: `schema`. number: the answer is
    a number within [`minimum`, `maximum`], whole if `integer`. choice: the answer is one of `choices`.
    """

    type: Literal["regex", "json_schema", "number", "choice"]
    pattern: str | None = None
    schema: dict[str, Any] | None = None
    minimum: float | None = None
    maximum: float | None = None
    integer: bool = False
    choices: tuple[str, ...] = ()
