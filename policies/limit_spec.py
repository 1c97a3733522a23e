"""What a tenant has beside its budgets, as an operator writes it: rates, shares, pacing, exploration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from policies.arm_spec import TIERS, FieldProblem, PolicyModel

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Limits(PolicyModel):
    """Rate limits of a tenant or a key; None is no limit."""

    requests_per_minute: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    tokens_per_minute: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = None
    concurrency: Annotated[int, Field(ge=1, le=100_000)] | None = None

    def any(self) -> bool:
        return not (self.requests_per_minute is self.tokens_per_minute is self.concurrency is None)


class TierShare(PolicyModel):
    """The most of a window's spend that a tier may take, 0 to 1; None is all of it.

    Counted against the tenant's budget of that window, where it has one. Where it has none, against what the
    tenant has spent in the window so far, but never against less than gives the tier `floor_tokens`.
    """

    window: Literal["minute", "day", "month"] = "day"
    direct: Share | None = None
    consistency: Share | None = None
    search: Share | None = None
    floor_tokens: Annotated[int, Field(ge=0, le=2**53 - 1)] = 20_000

    def of(self, tier: str) -> float | None:
        share: float | None = getattr(self, tier)
        return share

    def capped(self) -> Mapping[str, float]:
        """The tiers that have a share of less than everything."""
        shares = {tier: self.of(tier) for tier in TIERS}
        return {tier: share for tier, share in shares.items() if share is not None and share < 1.0}


class Exploration(PolicyModel):
    """How often the start of a plan is drawn by chance (`policies.exploration`)."""

    rate: Annotated[float, Field(ge=0.0, le=0.2)] = 0.0


class Pacing(PolicyModel):
    """The cost weight adapts so that the window's budget lasts as long as the window (`policies.pacing`).

    `strength` is how hard it steers; the cost weight is multiplied by `min_factor` to `max_factor`. A
    `min_factor` below 1 spends what would be left over on accuracy.
    """

    window: Literal["day", "month"] = "day"
    strength: Annotated[float, Field(gt=0.0, le=10.0)] = 1.0
    min_factor: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    max_factor: Annotated[float, Field(ge=1.0, le=1e6)] = 64.0

    @model_validator(mode="after")
    def _steers(self) -> Self:
        if self.min_factor == self.max_factor:
            raise FieldProblem(("max_factor",), "it equals min_factor, so nothing would adapt; raise it")
        return self
