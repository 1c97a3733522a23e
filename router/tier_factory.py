"""What a tier's replica is made of; kept apart so that replicas load nothing of the HTTP service."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from backends.engines.build import build_engine
from backends.runner import TierRunner
from backends.verifiers.http_reward import HttpRewardModel
from policies.ledger import RedisLedger
from policies.store import guarded
from router.config import AppConfig
from router.meter import LedgerMeter
from router.stores import redis_url


@dataclass(frozen=True, slots=True)
class TierFactory:
    """Makes a tier's runner, in the process that calls it."""

    name: str
    config: AppConfig

    async def __call__(self) -> TierRunner:
        tier = self.config.tiers[self.name]
        client, commands = guarded(redis_url(self.config))
        ledger = RedisLedger(client, batches=commands)
        return TierRunner(
            await asyncio.to_thread(build_engine, tier.engine),
            tier=self.name,
            hardware=tier.sheet(),
            shape=tier.model_shape(),
            meter=LedgerMeter(ledger, self.config.lease_ttl_s),
            reward=HttpRewardModel(tier.reward) if tier.reward is not None else None,
        )
