"""Budgets as an operator writes them: a number of tokens, or a mapping of units, for each window."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from itertools import pairwise
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, Field, model_validator

from policies.amounts import MAX_TOKENS, SAID, UNITS, Unit
from policies.arm_spec import FieldProblem, PolicyModel

Window = Literal["minute", "day", "month"]
WINDOWS: tuple[Window, ...] = get_args(Window)

Tokens = Annotated[int, Field(ge=0, le=MAX_TOKENS)]
_FIELDS: Mapping[Unit, str] = {"tokens": "tokens", "gpu_ms": "gpu_seconds", "micro_usd": "usd"}


class WindowLimits(PolicyModel):
    """The most of each unit in one window; None is no limit."""

    tokens: Tokens | None = None
    gpu_seconds: Annotated[float, Field(ge=0.0, le=MAX_TOKENS / 1_000)] | None = None
    usd: Annotated[float, Field(ge=0.0, le=MAX_TOKENS / 1_000_000)] | None = None

    def limits(self) -> dict[Unit, int]:
        """The limited units, as the ledger counts them; a fraction of a unit is no unit."""
        found: dict[Unit, int] = {}
        for unit in UNITS:
            said = getattr(self, _FIELDS[unit])
            if said is not None:
                found[unit] = min(MAX_TOKENS, int(Decimal(repr(said)) * SAID[unit][1]))
        return found


def _spelled_out(value: Any) -> Any:
    """A whole number means tokens."""
    if value is None or isinstance(value, Mapping | WindowLimits):
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        problem = "it should be a valid integer (tokens), or a mapping of tokens, gpu_seconds and usd"
        raise FieldProblem((), problem)
    if value < 0:
        raise FieldProblem((), "it should be greater than or equal to 0")
    if value > MAX_TOKENS:
        raise FieldProblem((), f"it should be less than or equal to {MAX_TOKENS}")
    return {"tokens": value}


WindowBudget = Annotated[
    WindowLimits | None, BeforeValidator(_spelled_out, json_schema_input_type=Tokens | WindowLimits | None)
]


class Budgets(PolicyModel):
    """What may be spent a window (UTC); None is no budget. Every token processed or generated counts."""

    minute: WindowBudget = None
    day: WindowBudget = None
    month: WindowBudget = None

    def limits(self) -> dict[str, dict[Unit, int]]:
        """Window -> unit -> limit, as the ledger takes it. All windows are in it: all are counted."""
        return {w: known.limits() if (known := getattr(self, w)) is not None else {} for w in WINDOWS}

    def tokens(self, window: str) -> int | None:
        """The tokens of a window, None without a limit."""
        return self.limits()[window].get("tokens")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        limits = self.limits()
        for unit in UNITS:
            known = [(window, limits[window][unit]) for window in WINDOWS if unit in limits[window]]
            for (small, low), (large, high) in pairwise(known):
                if low > high:
                    scale = SAID[unit][1]
                    problem = f"{low / scale:.12g} a {small} is more than {high / scale:.12g} a {large}"
                    path = (small,) if unit == "tokens" else (small, _FIELDS[unit])
                    raise FieldProblem(path, f"{problem}; lower it")
        return self


class Organisation(PolicyModel):
    """Tenants that share budgets; each may have its own besides."""

    budgets: Budgets = Budgets()


def laid_over(base: Any, own: Any) -> tuple[Any, Any]:
    """Two `budgets` sections, ready to be merged field by field.

    Where one writes a window as a number and the other as a mapping, the number becomes one: a tenant that
    overrides the tokens keeps the limit of money.
    """
    if not (isinstance(base, Mapping) and isinstance(own, Mapping)):
        return base, own
    mixed = [
        window
        for window in WINDOWS
        if {isinstance(base.get(window), Mapping), isinstance(own.get(window), Mapping)} == {True, False}
    ]
    return _with_units(base, mixed), _with_units(own, mixed)


def _with_units(budgets: Mapping[str, Any], windows: list[Window]) -> dict[str, Any]:
    numbers = {w: n for w in windows if isinstance(n := budgets.get(w), int) and not isinstance(n, bool)}
    return {**budgets, **{window: {"tokens": number} for window, number in numbers.items()}}
