"""A whole service in one process, without Ray and without Redis, for tests of the pipeline."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from backends.engines.fake import FakeEngine
from backends.hardware import CPU, SMOLLM2_135M
from backends.runner import TierRunner
from backends.task import Used
from classifier.confidence import Confidence
from classifier.predictor import Prediction
from policies.amounts import Amount
from policies.keys import KeyRing, hash_key
from policies.ledger import Gauge
from policies.limits import LimitScopes, LimitUsage
from policies.loader import parse_policy
from policies.memory_ledger import InMemoryLedger
from policies.schema import Policy
from router.cache import MemoryCache
from router.holding import Tariff
from router.parts import Parts
from router.pipeline import Pipeline
from router.request import Caller, RouteRequest
from router.tiers import InProcessTiers
from tests.tasks import says

from backends.engines.base import Message  # isort: skip

KEY = "acr-test-key"
SECRET = b"s" * 32

POLICY = f"""
version: 1
name: test
arms:
  direct/direct: {{tier: direct, strategy: direct, think: false, temperature: 0}}
  consistency/sc8: {{tier: consistency, strategy: self_consistency, max_samples: 8, temperature: 0.7}}
  search/beam: {{tier: search, strategy: beam, max_samples: 4, width: 2, temperature: 0.7}}
tenants:
  acme:
    keys: [{{id: k1, sha256: {hash_key(KEY)}}}]
    budgets: {{minute: 20000, day: 100000}}
    default_effort: high
    quality_target: 0.8
  cheap:
    tiers: [direct]
    budgets: {{minute: 500}}
"""


@dataclass(slots=True)
class OpenLimits:
    """Lets everyone in and remembers who left."""

    released: list[str] = field(default_factory=list)

    async def admit(
        self, tenant: str, scopes: LimitScopes, *, slot_id: str, tokens: int, least_tokens: int, ttl_s: float
    ) -> LimitUsage:
        return LimitUsage(limit_requests=60, remaining_requests=59, reset_requests_s=1.0)

    async def leave(self, tenant: str, scopes: LimitScopes, slot_id: str, *, tokens: int | None) -> None:
        self.released.append(slot_id)


@dataclass(slots=True)
class ScriptedClassifier:
    """Predicts what the test says; `confidences` judge single samples, if any."""

    p: dict[str, float]
    confidences: dict[str, Confidence] = field(default_factory=dict)

    async def predict(self, messages: list[dict[str, str]]) -> Prediction:
        tokens = {arm: 20.0 * 4**rank for rank, arm in enumerate(self.p)}
        high = {arm: 2 * count for arm, count in tokens.items()}
        return Prediction(
            p=dict(self.p),
            tokens=tokens,
            tokens_high=high,
            difficulty=0.5,
            ood=0.0,
            version="scripted",
            confidences=self.confidences,
        )


EASY = {"direct/direct": 0.95, "consistency/sc8": 0.96, "search/beam": 0.96}
HARD = {"direct/direct": 0.2, "consistency/sc8": 0.85, "search/beam": 0.9}


class TestService:
    """A pipeline and everything behind it; `ledger`, `limits` and `engines` are there to be looked at."""

    __test__ = False

    def __init__(self, engine: FakeEngine, p: dict[str, float], policy: str, **parts: Any) -> None:
        self.engine = engine
        self.policy: Policy = parse_policy(policy, "test")
        self.ledger = parts.pop("ledger", None) or InMemoryLedger()
        self.limits = parts.pop("limits", None) or OpenLimits()
        self.runners = {
            name: TierRunner(engine, tier=name, hardware=CPU, shape=SMOLLM2_135M, meter=_Meter(self.ledger))
            for name in ("direct", "consistency", "search")
        }
        self.pipeline = Pipeline(
            Parts(
                policy=self.policy,
                keys=KeyRing(self.policy),
                classifier=parts.pop("classifier", None)
                or ScriptedClassifier(p, parts.pop("confidences", {})),
                ledger=self.ledger,
                limits=self.limits,
                tiers=parts.pop("tiers", None) or InProcessTiers(self.runners),
                cache=parts.pop("cache", None) or MemoryCache(SECRET),
                cache_secret=SECRET,
                engine_models="fake",
                tariffs=parts.pop("tariffs", dict.fromkeys(self.runners, Tariff(SMOLLM2_135M, CPU))),
                **parts,
            )
        )

    async def gauges(self, tenant: str = "acme") -> dict[str, Gauge]:
        scopes = self.policy.tenants[tenant].scopes()
        found = await self.ledger.peek(self.policy.tenants[tenant].account, scopes)
        return {gauge.window: gauge for gauge in found if gauge.unit == "tokens"}


class _Meter:
    def __init__(self, ledger: InMemoryLedger) -> None:
        self._ledger = ledger

    async def checkpoint(self, tenant: str, lease_id: str, used: Used) -> None:
        await self._ledger.checkpoint(lease_id, Amount.of(used.tokens, used.gpu_seconds, used.usd), 30.0)

    async def abandon(self, tenant: str, lease_id: str, used: Used) -> None:
        await self._ledger.settle(lease_id, Amount.of(used.tokens, used.gpu_seconds, used.usd), exact=True)

    async def aclose(self) -> None:
        return


async def start_service(
    engine: FakeEngine | None = None,
    p: dict[str, float] = EASY,
    policy: str = POLICY,
    **parts: Any,
) -> TestService:
    engine = engine or says("Answer: 7")
    await engine.start()
    return TestService(engine, p, policy, **parts)


ACME = Caller("acme", "k1")
CHEAP = Caller("cheap", "k2")


def request(text: str = "What is 3 + 4?", **fields: Any) -> RouteRequest:
    base: dict[str, Any] = {
        "request_id": "r1",
        "model": "auto",
        "messages": (Message("user", text),),
        "max_completion_tokens": 64,
    }
    return RouteRequest(**{**base, **fields})
