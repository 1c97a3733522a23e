"""What a pipeline is made of, behind the protocols it needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from classifier.predictor import Prediction
from policies.keys import KeyRing
from policies.ledger import Ledger
from policies.limits import RateLimits
from policies.schema import Policy
from router.cache import Cache
from router.decisions.writer import DecisionWriter
from router.drift.live import DriftWatch
from router.health import HealthBoard
from router.holding import Tariff
from router.semantic_cache import SemanticCache
from router.shadow import Shadow
from router.shared_flight import SharedFlights
from router.tiers import TierClient


class Classifier(Protocol):
    """p(success) and tokens of every arm it knows, in process or on its own deployment."""

    async def predict(self, messages: list[dict[str, str]]) -> Prediction: ...


@dataclass(frozen=True, slots=True)
class Parts:
    """What a pipeline is made of.

    `prompt_bytes_per_token` estimates prompts before a tokenizer has seen them: 1 is an upper bound, about
    3 is right for most text where tiers count exactly and ask for more when it was too little.
    `outage_share` is this replica's part of what a budget had left, while the store is away (1 / replicas).
    `decisions` writes the decision log, where there is one.
    `tariffs` price the tiers' work; a tier without one is closed to budgets in GPU time and money.
    """

    policy: Policy
    keys: KeyRing
    classifier: Classifier
    ledger: Ledger
    limits: RateLimits
    tiers: TierClient
    cache: Cache | None
    cache_secret: bytes
    engine_models: str
    flights: SharedFlights | None = None
    semantic: SemanticCache | None = None
    lease_ttl_s: float = 60.0
    prompt_bytes_per_token: float = 3.0
    log_decisions: bool = True
    outage_share: float = 1.0
    shadow: Shadow | None = None
    decisions: DecisionWriter | None = None
    drift: DriftWatch | None = None
    board: HealthBoard = field(default_factory=HealthBoard)
    tariffs: Mapping[str, Tariff] = field(default_factory=dict)
