"""One replica's service in this process: the real pipeline over a real store, on the fake engine."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from types import TracebackType

from backends.engines.base import Message
from backends.engines.fake import FakeConfig, FakeEngine
from backends.hardware import CPU, SMOLLM2_135M
from backends.runner import TierRunner
from classifier.predictor import Prediction
from policies.keys import KeyRing
from policies.ledger import Gauge, RedisLedger
from policies.limits import RedisLimits
from policies.loader import parse_policy
from policies.schema import Policy
from policies.store import connect, guarded
from router.cache import RedisCache
from router.cache_store import CacheStore
from router.idempotency import RedisIdempotency
from router.leases import RedisLeases
from router.meter import LedgerMeter
from router.parts import Parts
from router.pipeline import Pipeline
from router.request import Caller, RouteRequest
from router.shared_flight import SharedFlights
from router.tiers import InProcessTiers

TIERS = ("direct", "consistency", "search")
SECRET = b"c" * 32
LEASE_TTL_S = 30.0
CACHE_TIMEOUT_S = 0.1

POLICY = """
version: 1
name: chaos
arms:
  direct/direct: {{tier: direct, strategy: direct, think: false, temperature: 0}}
  consistency/sc4: {{tier: consistency, strategy: self_consistency, max_samples: 4, temperature: 0.7}}
defaults:
  budgets: {{minute: null, day: {budget}, month: null}}
  limits: {{concurrency: {concurrency}}}
  cache: {{mode: "{cache}", hit_charge_tokens: {hit_charge_tokens}}}
  default_effort: high
  tier_share: {tier_share}
tenants:
  {name}-deny: {{on_store_error: deny}}
  {name}-degrade: {{on_store_error: degrade}}
  {name}-allow: {{on_store_error: allow}}
"""


def policy(
    name: str,
    budget: int = 2**40,
    concurrency: int = 1000,
    cache: str = "off",
    hit_charge_tokens: int = 0,
    tier_share: str = "{}",
) -> Policy:
    """Three tenants, `NAME-deny`, `NAME-degrade` and `NAME-allow`, with a daily budget in tokens."""
    values = {"budget": budget, "concurrency": concurrency, "cache": cache, "tier_share": tier_share}
    return parse_policy(POLICY.format(name=name, hit_charge_tokens=hit_charge_tokens, **values), "chaos")


def new_name() -> str:
    """A name that no other run on the same server has."""
    return "c" + secrets.token_hex(6)


def ask(text: str, model: str = "auto", **fields: object) -> RouteRequest:
    """A request of at most 32 tokens a completion."""
    base: dict[str, object] = {"request_id": "chaos", "max_completion_tokens": 32}
    return RouteRequest(model=model, messages=(Message("user", text),), **{**base, **fields})  # type: ignore[arg-type]


class SameForAll:
    """Predicts the same for every prompt."""

    def __init__(self, p: dict[str, float]) -> None:
        self._p = p

    async def predict(self, messages: list[dict[str, str]]) -> Prediction:
        tokens = dict.fromkeys(self._p, 20.0)
        high = dict.fromkeys(self._p, 40.0)
        return Prediction(
            p=self._p, tokens=tokens, tokens_high=high, difficulty=0.5, ood=0.0, version="chaos"
        )


class Replica:
    """`async with Replica(url, policy) as replica:`; `engine` counts what was really generated.

    `url` leads to the budgets, `cache_url` (None: no cache) to the answers.
    """

    def __init__(
        self,
        url: str,
        policy: Policy,
        *,
        engine: FakeEngine | None = None,
        p: dict[str, float] | None = None,
        cache_url: str | None = None,
        lease_ttl_s: float = LEASE_TTL_S,
        outage_share: float = 1.0,
    ) -> None:
        self.engine = engine or FakeEngine(FakeConfig())
        self._client, self._commands = guarded(url)
        self._records = connect(url, decode_responses=False)
        self._answers = connect(
            cache_url or url,
            connect_timeout_s=CACHE_TIMEOUT_S,
            command_timeout_s=CACHE_TIMEOUT_S,
            decode_responses=False,
        )
        store = CacheStore(self._answers, timeout_s=CACHE_TIMEOUT_S)
        self.breaker = self._commands.breaker
        self.ledger = RedisLedger(self._client, batches=self._commands)
        self.idempotency = RedisIdempotency(self._records, SECRET, breaker=self.breaker)
        self._meter = LedgerMeter(self.ledger, lease_ttl_s)
        self._runners = {
            name: TierRunner(self.engine, tier=name, hardware=CPU, shape=SMOLLM2_135M, meter=self._meter)
            for name in TIERS
        }
        self.pipeline = Pipeline(
            Parts(
                policy=policy,
                keys=KeyRing(policy),
                classifier=SameForAll(p or {"direct/direct": 0.9, "consistency/sc4": 0.91}),
                ledger=self.ledger,
                limits=RedisLimits(self._client, batches=self._commands),
                tiers=InProcessTiers(self._runners),
                cache=RedisCache(store, SECRET) if cache_url is not None else None,
                flights=SharedFlights(RedisLeases(store)) if cache_url is not None else None,
                cache_secret=SECRET,
                engine_models="fake",
                lease_ttl_s=lease_ttl_s,
                log_decisions=False,
                outage_share=outage_share,
            )
        )

    async def __aenter__(self) -> Replica:
        await self.engine.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.pipeline.aclose()
        for runner in self._runners.values():
            await runner.aclose()
        await self._commands.aclose()
        for client in (self._client, self._records, self._answers):
            await client.aclose()

    def generated(self) -> int:
        """Tokens that the engine has processed and generated: what must be charged in the end."""
        return sum(call.prompt_tokens + call.completion_tokens for call in self.engine.calls)


async def counted(url: str, policy: Policy, tenant: str) -> tuple[int, int]:
    """Tokens used and held today, asked by a client of its own."""
    client = connect(url, command_timeout_s=10.0)
    try:
        settings = policy.tenants[tenant]
        gauges: Sequence[Gauge] = await RedisLedger(client).peek(settings.account, settings.scopes())
        (today,) = [g for g in gauges if g.window == "day" and g.unit == "tokens" and g.scope == "tenant"]
        return today.used, today.held
    finally:
        await client.aclose()


async def settled(url: str, policy: Policy, tenant: str, within_s: float = 20.0) -> int:
    """Tokens used, once nothing is held any more. Raises TimeoutError."""
    async with asyncio.timeout(within_s):
        while True:
            used, held = await counted(url, policy, tenant)
            if not held:
                return used
            await asyncio.sleep(0.05)


def caller(tenant: str) -> Caller:
    return Caller(tenant, "chaos")
