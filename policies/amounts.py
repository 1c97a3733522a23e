"""What budgets are counted in: tokens, milliseconds of an accelerator, millionths of a US dollar.

Whole numbers only, below 2^53: the ledger counts in Lua, whose numbers are doubles.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Unit = Literal["tokens", "gpu_ms", "micro_usd"]

UNITS: tuple[Unit, ...] = get_args(Unit)
MAX_TOKENS = 2**53 - 1  # the most of any unit: above this doubles are no longer exact

SAID: Mapping[str, tuple[str, int]] = {
    "tokens": ("tokens", 1),
    "gpu_ms": ("GPU-seconds", 1_000),
    "micro_usd": ("USD", 1_000_000),
}
"""What people call a unit, and how many of it make one of theirs."""


def whole(name: str, value: int, *, least: int = 0) -> int:
    """`value`, if it is whole and from `least` to 2^53 - 1, which Lua counts exactly; else ValueError."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MAX_TOKENS:
        raise ValueError(f"{name} must be a whole number from {least} to {MAX_TOKENS}, not {value!r}")
    return value


def in_words(unit: str, number: int) -> str:
    """`1200 tokens`, `3.5 GPU-seconds`, `0.25 USD`."""
    name, scale = SAID[unit]
    return f"{number} {name}" if scale == 1 else f"{number / scale:g} {name}"


@dataclass(frozen=True, slots=True)
class Amount:
    """So much of each unit, none of it negative; adds up with `+`. ValueError for what is not whole."""

    tokens: int = 0
    gpu_ms: int = 0
    micro_usd: int = 0

    def __post_init__(self) -> None:
        for unit in UNITS:
            whole(unit, getattr(self, unit))

    @classmethod
    def of(cls, tokens: int, gpu_seconds: float = 0.0, usd: float = 0.0) -> Amount:
        """A bill as the ledger counts it: fractions are rounded up, and it ends at the largest number.

        An unknown price (NaN) counts nothing. That is never free: where a budget in money counts, an unknown
        price is refused beforehand.
        """
        micro_usd = 0.0 if math.isnan(usd) else usd * 1_000_000
        return cls(tokens, *(min(MAX_TOKENS, math.ceil(part)) for part in (gpu_seconds * 1_000, micro_usd)))

    def __add__(self, other: Amount) -> Amount:
        return Amount(
            self.tokens + other.tokens, self.gpu_ms + other.gpu_ms, self.micro_usd + other.micro_usd
        )

    def beyond(self, other: Amount) -> Amount:
        """What this is more than `other`, unit by unit; 0 where it is not."""
        return Amount(
            max(0, self.tokens - other.tokens),
            max(0, self.gpu_ms - other.gpu_ms),
            max(0, self.micro_usd - other.micro_usd),
        )

    def at_least(self, other: Amount) -> Amount:
        """The larger of both, unit by unit."""
        return self + other.beyond(self)

    def __bool__(self) -> bool:
        return bool(self.tokens or self.gpu_ms or self.micro_usd)


NOTHING = Amount()
