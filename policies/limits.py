"""Rate limits: requests/min, tokens/min (GCRA, exact waits) and requests at the same time.

They hold for a tenant and for each of its keys. Tokens are counted as an estimate when a request is admitted,
and as what was charged when it ends: so tokens a minute means tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from redis.asyncio import Redis

from policies.batches import Batches
from policies.errors import LimitExceeded
from policies.limit_spec import Limits
from policies.store import answer, lua_source, milliseconds, shaped, whole

LimitScopes = Sequence[tuple[str, Limits]]


@dataclass(frozen=True, slots=True)
class LimitUsage:
    """What the x-ratelimit headers say, of the tightest scope; None where there is no such limit.

    `reset_*_s` runs until the limit is whole again.
    """

    limit_requests: int | None = None
    remaining_requests: int | None = None
    reset_requests_s: float | None = None
    limit_tokens: int | None = None
    remaining_tokens: int | None = None
    reset_tokens_s: float | None = None


class RateLimits(Protocol):
    """Who may come in; `scopes` are those of `TenantPolicy.limit_scopes`, the same from entry to end."""

    async def admit(
        self, tenant: str, scopes: LimitScopes, *, slot_id: str, tokens: int, least_tokens: int, ttl_s: float
    ) -> LimitUsage:
        """Count a request against all limits of all scopes, or against none if one of them is reached.

        `tokens` is an estimate, counted up to a limit; `least_tokens` of it must fit. The slots free
        themselves after `ttl_s`; until then a repeat by the same id counts no more. Raises LimitExceeded,
        StoreUnavailable.
        """
        ...

    async def leave(self, tenant: str, scopes: LimitScopes, slot_id: str, *, tokens: int | None) -> None:
        """Free the slots and count the request as the tokens it was charged; None lets the estimate stand.

        More than the estimate is owed, up to an hour's worth. Repeats do nothing. Also right for an admission
        that timed out: should it run later, it takes nothing. Raises StoreUnavailable.
        """
        ...


def tightest_usage(scopes: LimitScopes, states: Sequence[Sequence[float]]) -> LimitUsage:
    """Of each limit the scope with the least left; a state is {requests left, us to full, tokens, us}."""
    requests = [
        (int(state[0]), state[1], limit)
        for (_, limits), state in zip(scopes, states, strict=True)
        if (limit := limits.requests_per_minute) is not None
    ]
    tokens = [
        (int(state[2]), state[3], limit)
        for (_, limits), state in zip(scopes, states, strict=True)
        if (limit := limits.tokens_per_minute) is not None
    ]
    left, reset_us, limit = min(requests, key=_tightness, default=(None, None, None))
    left_tokens, tokens_us, limit_tokens = min(tokens, key=_tightness, default=(None, None, None))
    return LimitUsage(
        limit,
        left,
        None if reset_us is None else reset_us / 1e6,
        limit_tokens,
        left_tokens,
        None if tokens_us is None else tokens_us / 1e6,
    )


def _tightness(state: tuple[int, float, int]) -> tuple[float, float]:
    return (state[0], -state[1])


def limited(scopes: LimitScopes) -> LimitScopes:
    """The scopes that have a limit at all."""
    return [(scope, limits) for scope, limits in scopes if limits.any()]


class RedisLimits:
    """One script a request and one at its end, on the same server as the ledger (`store.connect`)."""

    def __init__(
        self,
        client: Redis,
        *,
        batches: Batches | None = None,
        source: Callable[[str], str] = lua_source,
    ) -> None:
        batches = batches or Batches(client)
        common = source("gcra")
        self._admit = batches.script(common + "\n" + source("limit"))
        self._end = batches.script(common + "\n" + source("limit_end"))

    async def admit(
        self, tenant: str, scopes: LimitScopes, *, slot_id: str, tokens: int, least_tokens: int, ttl_s: float
    ) -> LimitUsage:
        """As `RateLimits` says. Without limits nothing is asked of the store."""
        args: list[str | int] = [slot_id, milliseconds("ttl_s", ttl_s)]
        args += [whole("tokens", tokens), whole("least_tokens", least_tokens)]
        scopes = limited(scopes)
        if not scopes:
            return LimitUsage()
        for _, limits in scopes:
            args += [
                _or_dash(limits.requests_per_minute),
                _or_dash(limits.tokens_per_minute),
                _or_dash(limits.concurrency),
            ]
        call = self._admit(keys=_keys(tenant, scopes, slot_id), args=args)
        reply = shaped(await answer(call, f"the limits of {tenant}"), 4)
        granted, kind, scope, retry_us, *flat = reply
        usage = tightest_usage(scopes, [flat[i : i + 4] for i in range(0, len(flat), 4)])
        if not granted:
            raise LimitExceeded(kind, None if retry_us < 0 else retry_us / 1e6, usage, scopes[scope - 1][0])
        return usage

    async def leave(self, tenant: str, scopes: LimitScopes, slot_id: str, *, tokens: int | None) -> None:
        """As `RateLimits` says."""
        charged: str | int = "-" if tokens is None else whole("tokens", tokens)
        scopes = limited(scopes)
        if scopes:
            args = [slot_id, charged, *(_or_dash(limits.tokens_per_minute) for _, limits in scopes)]
            call = self._end(keys=_keys(tenant, scopes, slot_id), args=args)
            await answer(call, f"the limits of {tenant}")


def _or_dash(limit: int | None) -> str | int:
    return "-" if limit is None else limit


def _keys(tenant: str, scopes: LimitScopes, slot_id: str) -> list[str]:
    """One hash tag: the scripts run on one slot of a cluster."""
    prefix = f"acr:{{{tenant}}}:limit:"
    return [
        f"{prefix}admission:{slot_id}",
        *(f"{prefix}{scope}:{what}" for scope, _ in scopes for what in ("requests", "tokens", "slots")),
    ]
