"""What has to be held for a step: its tokens, and the most that they can cost on its tier."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isnan

from backends.cost import SECONDS_PER_HOUR, most_gpu_seconds
from backends.hardware import Hardware, ModelShape
from policies.amounts import Amount, Unit
from policies.arm_spec import ONE_SAMPLE
from policies.errors import PriceUnknown
from policies.ledger import Scopes
from policies.plan import Step
from router.config import AppConfig

Bound = Callable[[Step, int], Amount]
"""The most that a step comes to if it keeps within so many tokens."""

MOST_TOKENS = 10**9  # of one request, where a search for the most that a budget pays begins


def in_tokens(step: Step, budget_tokens: int) -> Amount:
    """Where nothing but tokens is limited."""
    return Amount(budget_tokens)


@dataclass(frozen=True, slots=True)
class Tariff:
    """What prices a tier's work; an hour's price is NaN where it is not known."""

    shape: ModelShape
    hardware: Hardware

    @property
    def priced(self) -> bool:
        return not isnan(self.hardware.usd_per_hour)


@dataclass(frozen=True, slots=True)
class Holding:
    """One request's: the units that any of its budgets limits, and the tariffs of the tiers.

    `choices` is how many completions the caller asked for; `may_move`, whether a cheaper tier may answer
    where the budget is low. A run that keeps within its tokens is never
    settled for more than `most` (`backends.cost.most_gpu_seconds`, rounded up as bills are).
    """

    units: frozenset[Unit]
    tariffs: Mapping[str, Tariff]
    choices: int = 1
    may_move: bool = True

    @classmethod
    def of(cls, scopes: Scopes, tariffs: Mapping[str, Tariff], choices: int, may_move: bool) -> Holding:
        limited = {unit for _, windows in scopes for limits in windows.values() for unit in limits}
        return cls(frozenset(limited), tariffs, choices, may_move)

    @property
    def only_tokens(self) -> bool:
        return self.units <= {"tokens"}

    def most(self, step: Step, budget_tokens: int) -> Amount:
        """What to hold. Raises PriceUnknown."""
        if self.only_tokens:
            return Amount(budget_tokens)
        tariff = self._tariff(step.tier)
        calls, completion = None, None
        if step.strategy in ONE_SAMPLE:
            calls, completion = self.choices, self.choices * step.max_tokens
        gpu_s = most_gpu_seconds(
            budget_tokens, tariff.shape, tariff.hardware, calls=calls, completion_tokens=completion
        )
        usd = gpu_s / SECONDS_PER_HOUR * tariff.hardware.usd_per_hour
        found = Amount.of(budget_tokens, gpu_s, usd)
        return Amount(
            budget_tokens,
            found.gpu_ms if "gpu_ms" in self.units else 0,
            found.micro_usd if "micro_usd" in self.units else 0,
        )

    def room(self, step: Step, left: Mapping[Unit, int]) -> int:
        """The most tokens with which `step` fits what is left of every unit. Raises PriceUnknown."""
        low, high = 0, min(left.get("tokens", MOST_TOKENS), MOST_TOKENS)
        while low < high:
            middle = (low + high + 1) // 2
            held = self.most(step, middle)
            fits = all(getattr(held, unit) <= most for unit, most in left.items())
            low, high = (middle, high) if fits else (low, middle - 1)
        return low

    def unpayable(self, tiers: frozenset[str]) -> frozenset[str]:
        """Those of the tiers that these budgets cannot pay for: nobody knows what they cost."""
        return frozenset(tier for tier in tiers if self._unknown_unit(tier) is not None)

    def _unknown_unit(self, tier: str) -> Unit | None:
        tariff = self.tariffs.get(tier)
        if "micro_usd" in self.units and (tariff is None or not tariff.priced):
            return "micro_usd"
        return "gpu_ms" if "gpu_ms" in self.units and tariff is None else None

    def refuse(self, tiers: frozenset[str]) -> PriceUnknown:
        """The refusal for tiers that are `unpayable`."""
        known = tuple(sorted(tiers))
        return PriceUnknown(known, self._unknown_unit(known[0]) or "micro_usd")

    def _tariff(self, tier: str) -> Tariff:
        if self._unknown_unit(tier) is not None:
            raise self.refuse(frozenset({tier}))
        return self.tariffs[tier]


def tariffs(config: AppConfig) -> dict[str, Tariff]:
    return {name: Tariff(tier.model_shape(), tier.sheet()) for name, tier in config.tiers.items()}
