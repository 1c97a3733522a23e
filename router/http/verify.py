"""`compute.verify`: the caller's own check, as data. No code, no URL, nothing that runs for long."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from backends.errors import InvalidVerifier
from backends.verifiers.base import VerifySpec
from backends.verifiers.caller import compile_check
from router.http.json_schema import SchemaRefused, check_schema

_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True)
_MAX_REASON_CHARS = 200


def _bad(reason: str) -> PydanticCustomError:
    return PydanticCustomError("verify", "{reason}", {"reason": reason[:_MAX_REASON_CHARS]})


class RegexVerify(BaseModel):
    """The answer must contain a match of `pattern` (RE2 syntax: no look-around, no back-references)."""

    model_config = _STRICT

    type: Literal["regex"]
    pattern: Annotated[str, Field(min_length=1, max_length=1024)]

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        # The tier compiles it again; what does not compile must be refused before anything runs.
        try:
            compile_check(VerifySpec("regex", pattern=pattern))
        except InvalidVerifier as error:
            raise _bad(str(error)) from None
        return pattern

    def spec(self) -> VerifySpec:
        return VerifySpec("regex", pattern=self.pattern)


class JsonSchemaVerify(BaseModel):
    """The answer must be JSON that fits `schema`: draft 2020-12, at most 8 KiB, references only into itself
    and not circular, no patternProperties, unevaluatedProperties or unevaluatedItems.
    """

    model_config = _STRICT

    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]

    @field_validator("schema_")
    @classmethod
    def _compiles(cls, schema: dict[str, Any]) -> dict[str, Any]:
        try:
            check_schema(schema)
        except SchemaRefused as error:
            raise _bad(str(error)) from None
        return schema

    def spec(self) -> VerifySpec:
        return VerifySpec("json_schema", schema=self.schema_)


class NumberVerify(BaseModel):
    """The answer must be a number within [minimum, maximum], whole if `integer`."""

    model_config = _STRICT

    type: Literal["number"]
    minimum: float | None = None
    maximum: float | None = None
    integer: bool = False

    @model_validator(mode="after")
    def _is_a_range(self) -> NumberVerify:
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise _bad("minimum should not be above maximum")
        return self

    def spec(self) -> VerifySpec:
        return VerifySpec("number", minimum=self.minimum, maximum=self.maximum, integer=self.integer)


class ChoiceVerify(BaseModel):
    """The answer must be one of `choices`."""

    model_config = _STRICT

    type: Literal["choice"]
    choices: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=256)]], Field(min_length=1, max_length=64)
    ]

    def spec(self) -> VerifySpec:
        return VerifySpec("choice", choices=tuple(self.choices))


Verify = Annotated[RegexVerify | JsonSchemaVerify | NumberVerify | ChoiceVerify, Field(discriminator="type")]
