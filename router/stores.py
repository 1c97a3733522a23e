"""Which stores a process uses: the environment first, then the configuration."""

from __future__ import annotations

import logging
import os
import secrets

from router.config import AppConfig

log = logging.getLogger(__name__)

DEFAULT_REDIS_URL = "redis://127.0.0.1:6379/0"


def redis_url(config: AppConfig) -> str:
    """Where budgets are kept: REDIS_URL, else the configuration's, else a Redis on this machine."""
    return os.environ.get("REDIS_URL") or config.redis_url or DEFAULT_REDIS_URL


def outage_share(config: AppConfig) -> float:
    """The part of what a budget had left that one ingress replica may spend while the store is away."""
    scale = config.ingress
    return 1.0 / (scale.autoscaling.max_replicas if scale.autoscaling else scale.num_replicas or 1)


def cache_redis_url(config: AppConfig) -> str:
    """Where answers are kept: CACHE_REDIS_URL, else the configuration's, else with the budgets."""
    return os.environ.get("CACHE_REDIS_URL") or config.cache_redis_url or redis_url(config)


def decision_log_url(config: AppConfig) -> str:
    """Where decisions are logged: the configuration's own place for them, else with the budgets."""
    return config.decision_log.redis_url or redis_url(config)


def shared_secret() -> bytes | None:
    """ACR_CACHE_SECRET, which all ingress replicas and whoever publishes policies must share."""
    text = os.environ.get("ACR_CACHE_SECRET")
    return text.encode() if text else None


def cache_secret() -> bytes:
    """The shared secret; without one each replica has its own."""
    shared = shared_secret()
    if shared is None:
        log.warning(
            "ACR_CACHE_SECRET is not set: replicas share no answers and know only their own decisions"
        )
    return shared or secrets.token_bytes(32)
