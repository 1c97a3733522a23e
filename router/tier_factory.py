"""What a tier's replica is made of; kept apart so that replicas load nothing of the HTTP service."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from backends.engines.build import build_engine
from backends.runner import TierRunner
from backends.verifiers.http_reward import HttpRewardModel
from policies.amounts import Amount
from policies.ledger import RedisLedger
from policies.store import connect
from router.config import AppConfig
from router.stores import redis_url


class LedgerMeter:
    """Tells the ledger what a tier spends (`backends.runner.Meter`)."""

    def __init__(self, ledger: RedisLedger, lease_ttl_s: float) -> None:
        self._ledger = ledger
        self._lease_ttl_s = lease_ttl_s

    async def checkpoint(self, tenant: str, lease_id: str, used_tokens: int) -> None:
        await self._ledger.checkpoint(lease_id, Amount(used_tokens), self._lease_ttl_s)

    async def abandon(self, tenant: str, lease_id: str, used_tokens: int) -> None:
        await self._ledger.settle(lease_id, Amount(used_tokens), exact=True)


@dataclass(frozen=True, slots=True)
class TierFactory:
    """Makes a tier's runner, in the process that calls it."""

    name: str
    config: AppConfig

    async def __call__(self) -> TierRunner:
        tier = self.config.tiers[self.name]
        ledger = RedisLedger(connect(redis_url(self.config)))
        return TierRunner(
            await asyncio.to_thread(build_engine, tier.engine),
            tier=self.name,
            hardware=tier.sheet(),
            shape=tier.model_shape(),
            meter=LedgerMeter(ledger, self.config.lease_ttl_s),
            reward=HttpRewardModel(tier.reward) if tier.reward is not None else None,
        )
