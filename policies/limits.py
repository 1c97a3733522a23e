"""Rate limits of a tenant: requests/min, tokens/min (GCRA, exact waits) and requests at the same time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from redis.asyncio import Redis

from policies.batches import Batches
from policies.errors import LimitExceeded
from policies.schema import Limits
from policies.store import answer, lua_source, milliseconds, whole


@dataclass(frozen=True, slots=True)
class LimitUsage:
    """What the x-ratelimit headers say; None where the tenant has no such limit.

    `reset_*_s` runs until the limit is whole again.
    """

    limit_requests: int | None = None
    remaining_requests: int | None = None
    reset_requests_s: float | None = None
    limit_tokens: int | None = None
    remaining_tokens: int | None = None
    reset_tokens_s: float | None = None


class RedisLimits:
    """One script a request, on the same server as the ledger (`store.connect`)."""

    def __init__(
        self,
        client: Redis,
        *,
        batches: Batches | None = None,
        source: Callable[[str], str] = lua_source,
    ) -> None:
        self._batches = batches or Batches(client)
        self._script = self._batches.script(source("limit"))

    async def admit(
        self, tenant: str, limits: Limits, *, slot_id: str, tokens: int, slot_ttl_s: float
    ) -> LimitUsage:
        """Count the request against all limits, or against none if one of them is reached.

        `tokens` is an estimate. The slot is `release_slot`'s to free; it frees itself after `slot_ttl_s`.
        Nothing is asked of the store if the tenant has no limits. Raises LimitExceeded, StoreUnavailable.
        """
        rpm, tpm, concurrency = limits.requests_per_minute, limits.tokens_per_minute, limits.concurrency
        if rpm is None and tpm is None and concurrency is None:
            return LimitUsage()
        args: list[str | int] = [slot_id, milliseconds("slot_ttl_s", slot_ttl_s)]
        args += ["-" if limit is None else limit for limit in (rpm, tpm, concurrency)]
        keys = [_key(tenant, "requests"), _key(tenant, "tokens"), _key(tenant, "slots")]
        call = self._script(keys=keys, args=[*args, whole("tokens", tokens)])
        granted, kind, retry_us, requests, requests_us, left, left_us = await answer(call)
        usage = LimitUsage(
            limit_requests=rpm,
            remaining_requests=None if rpm is None else requests,
            reset_requests_s=None if rpm is None else requests_us / 1e6,
            limit_tokens=tpm,
            remaining_tokens=None if tpm is None else left,
            reset_tokens_s=None if tpm is None else left_us / 1e6,
        )
        if not granted:
            raise LimitExceeded(kind, None if retry_us < 0 else retry_us / 1e6, usage)
        return usage

    async def release_slot(self, tenant: str, limits: Limits, slot_id: str) -> None:
        """Free a concurrency slot; freeing it twice does nothing. Raises StoreUnavailable."""
        if limits.concurrency is not None:
            await answer(self._batches.execute("ZREM", _key(tenant, "slots"), slot_id))


def _key(tenant: str, rest: str) -> str:
    return f"acr:{{{tenant}}}:{rest}"
