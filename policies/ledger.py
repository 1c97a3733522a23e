"""Budgets in tokens: reserved before, settled after, exact in between.

`used` and `held` are separate numbers for each scope and window (minute, day, month; UTC). A lease holds
tokens in all windows of all its scopes, or in none; it expires by itself, charging its last checkpoint. Every
operation is one Lua script on the server's own clock, and idempotent by lease id.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from redis.asyncio import Redis

from policies.batches import Batches
from policies.errors import BudgetDenied, LeaseNotOpen
from policies.schema import WINDOWS
from policies.store import answer, lua_source, milliseconds, whole

Scopes = Sequence[tuple[str, Mapping[str, int | None]]]

SCRIPTS = ("reserve", "extend", "checkpoint", "settle", "release", "peek")

_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,128}")  # no braces (hash tag), no blanks (packed in Lua)


@dataclass(frozen=True, slots=True)
class Gauge:
    """One window of one scope, in tokens. `limit` is None where there is none; `reset_s` runs to its edge."""

    scope: str
    window: str
    used: int
    held: int
    limit: int | None
    reset_s: float

    @property
    def remaining(self) -> int | None:
        return None if self.limit is None else max(0, self.limit - self.used - self.held)


def tightest(gauges: Sequence[Gauge]) -> Gauge | None:
    """The limited window with the least left, None if none is limited."""
    limited = [(left, gauge) for gauge in gauges if (left := gauge.remaining) is not None]
    return min(limited, key=lambda pair: pair[0])[1] if limited else None


def new_lease_id(tenant: str) -> str:
    """`tenant:random`: whoever has the id can checkpoint and settle, on any replica."""
    return f"{tenant}:{secrets.token_hex(12)}"


class Ledger(Protocol):
    """Where budgets are counted; all tokens are whole numbers below 2^53 (else ValueError).

    Every operation raises StoreUnavailable when the store does not answer. Then it is unknown whether it ran:
    settle again by the same id; release the id of a reserve.
    """

    async def reserve(
        self, lease_id: str, tenant: str, scopes: Scopes, tokens: int, ttl_s: float
    ) -> int | None:
        """Hold tokens in every window of every scope, or in none. A repeat of an open lease holds no more.

        Returns the least that is left in any limited window, None if none is limited. Raises BudgetDenied;
        LeaseNotOpen if the id was settled, released or has expired.
        """
        ...

    async def extend(self, lease_id: str, extra_tokens: int, *, part: str = "") -> int | None:
        """Hold more for an open lease, checked as reserve does.

        `part` names the extension (a step of the plan, say), so that a repeat holds no more; without a name a
        repeat would. Returns what is left, as reserve does. Raises BudgetDenied (the lease stays as it was),
        LeaseNotOpen.
        """
        ...

    async def checkpoint(self, lease_id: str, used_tokens: int, ttl_s: float) -> int | None:
        """Renew the lease and remember what it has used so far: what it is charged if it expires.

        Returns the most that it was told, by anyone; None if it is not open any more. An expired one is
        charged what came since its last checkpoint.
        """
        ...

    async def settle(self, lease_id: str, used_tokens: int, *, exact: bool = False) -> int | None:
        """Charge what was used, to the windows of the reservation, and free the rest. Repeats do nothing.

        The lease's checkpoint is charged where it is larger, since whoever told it may be gone. `exact` is
        for those who know all that was spent: a checkpoint may have counted a prompt by its upper bound.
        Returns what is left now, as reserve does. Raises LeaseNotOpen (unknown or released).
        """
        ...

    async def release(self, lease_id: str) -> None:
        """Free the hold and charge nothing; only where nothing was spent.

        Right for an id whose reserve timed out: should that run later, it holds nothing. Raises LeaseNotOpen
        if there is something to settle, or was.
        """
        ...

    async def peek(self, tenant: str, scopes: Scopes) -> tuple[Gauge, ...]:
        """Every window of every scope as it is now, in the order of `scopes`."""
        ...


class RedisLedger:
    """The ledger on Redis 7 or Valkey; its keys are `acr:{tenant}:...`, so that a tenant is one cluster slot.

    `client` decodes its responses (`store.connect`); `batches` are its commands, where others share them.
    `source` gives a script's text by its name.
    """

    def __init__(
        self,
        client: Redis,
        *,
        batches: Batches | None = None,
        source: Callable[[str], str] = lua_source,
    ) -> None:
        batches = batches or Batches(client)
        common = source("common")
        self._scripts = {name: batches.script(common + "\n" + source(name)) for name in SCRIPTS}

    async def reserve(
        self, lease_id: str, tenant: str, scopes: Scopes, tokens: int, ttl_s: float
    ) -> int | None:
        if _tenant_of(lease_id) != tenant:
            raise ValueError(f"lease id {lease_id!r} is not of tenant {tenant!r}; make it with new_lease_id")
        windows: list[str | int] = []
        for scope, window, limit in _flat(scopes):
            windows += [scope, window, "-" if limit is None else limit]
        ttl_ms = milliseconds("ttl_s", ttl_s)
        return _left(
            await self._run("reserve", lease_id, whole("tokens", tokens), ttl_ms, *windows), lease_id
        )

    async def extend(self, lease_id: str, extra_tokens: int, *, part: str = "") -> int | None:
        extra = whole("extra_tokens", extra_tokens)
        return _left(await self._run("extend", lease_id, extra, part), lease_id)

    async def checkpoint(self, lease_id: str, used_tokens: int, ttl_s: float) -> int | None:
        used, ttl_ms = whole("used_tokens", used_tokens), milliseconds("ttl_s", ttl_s)
        result = await self._run("checkpoint", lease_id, used, ttl_ms)
        return int(result[1]) if result[0] == "ok" else None

    async def settle(self, lease_id: str, used_tokens: int, *, exact: bool = False) -> int | None:
        used = whole("used_tokens", used_tokens)
        return _left(await self._run("settle", lease_id, used, int(exact)), lease_id)

    async def release(self, lease_id: str) -> None:
        result = await self._run("release", lease_id)
        if result[0] != "ok":
            raise LeaseNotOpen(lease_id, result[1])

    async def peek(self, tenant: str, scopes: Scopes) -> tuple[Gauge, ...]:
        asked = _flat(scopes)
        args = [part for scope, window, _ in asked for part in (scope, window)]
        flat = await answer(self._scripts["peek"](keys=[_key(_named("tenant", tenant), "holds")], args=args))
        return tuple(
            Gauge(scope, window, flat[3 * i], flat[3 * i + 1], limit, flat[3 * i + 2] / 1000.0)
            for i, (scope, window, limit) in enumerate(asked)
        )

    async def _run(self, name: str, lease_id: str, *args: str | int) -> list[Any]:
        tenant, _, lease = lease_id.partition(":")
        if not lease:
            raise ValueError(f"{lease_id!r} is not a lease id; make it with new_lease_id")
        keys = [_key(_named("tenant", tenant), "holds"), _key(tenant, f"lease:{_named('lease', lease)}")]
        result: list[Any] = await answer(self._scripts[name](keys=keys, args=[lease, *args]))
        return result


def _left(result: list[Any], lease_id: str) -> int | None:
    if result[0] == "denied":
        raise BudgetDenied(result[1], result[2], result[3], result[4] / 1000.0)
    if result[0] != "ok":
        raise LeaseNotOpen(lease_id, result[1])
    return None if result[1] < 0 else int(result[1])


def _flat(scopes: Scopes) -> list[tuple[str, str, int | None]]:
    flat: list[tuple[str, str, int | None]] = []
    for scope, windows in scopes:
        for window, limit in windows.items():
            if window not in WINDOWS:
                raise ValueError(f"no window {window!r}; there are {', '.join(WINDOWS)}")
            flat.append((_named("scope", scope), window, None if limit is None else whole("limit", limit)))
    return flat


def _tenant_of(lease_id: str) -> str:
    return lease_id.partition(":")[0]


def _named(what: str, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{what} {name!r} may have letters, digits and _.:- only")
    return name


def _key(tenant: str, rest: str) -> str:
    return f"acr:{{{tenant}}}:{rest}"
