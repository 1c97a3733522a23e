"""Budgets in tokens, GPU time and money: reserved before, settled after, exact in between.

`used` and `held` are separate numbers for each scope, window (minute, day, month; UTC) and unit. A lease
holds an amount in all windows of all its scopes, or in none; it expires by itself, charging its last
checkpoint. Every operation is one Lua script on the server's own clock, and idempotent by lease id.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from redis.asyncio import Redis

from policies.amounts import UNITS, Amount, Unit, whole
from policies.batches import Batches
from policies.budget_spec import WINDOWS
from policies.errors import BudgetDenied, LeaseNotOpen
from policies.store import answer, lua_source, milliseconds, shaped

Scopes = Sequence[tuple[str, Mapping[str, Mapping[Unit, int]]]]
"""Name of a scope, window, unit, limit. A window is counted where it has no limits, too."""

SCRIPTS = ("reserve", "extend", "checkpoint", "settle", "release", "peek")

_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,160}")  # no braces (hash tag), no blanks (packed in Lua)


@dataclass(frozen=True, slots=True)
class Gauge:
    """One unit in one window of one scope. No `limit`: None. `reset_s` runs to the window's edge."""

    scope: str
    window: str
    used: int
    held: int
    limit: int | None
    reset_s: float
    unit: Unit = "tokens"

    @property
    def remaining(self) -> int | None:
        return None if self.limit is None else max(0, self.limit - self.used - self.held)


def tightest(gauges: Sequence[Gauge], unit: Unit = "tokens") -> Gauge | None:
    """The limited window with the least of a unit left, None if none is limited."""
    limited = [(left, g) for g in gauges if g.unit == unit and (left := g.remaining) is not None]
    return min(limited, key=lambda pair: pair[0])[1] if limited else None


def new_lease_id(account: str) -> str:
    """`account:random`: whoever has the id can checkpoint and settle, on any replica."""
    return f"{account}:{secrets.token_hex(12)}"


def account_of(lease_id: str) -> str:
    """The account that a lease belongs to. Raises ValueError for what is no lease id."""
    account, _, lease = lease_id.partition(":")
    if not (account and lease):
        raise ValueError(f"{lease_id!r} is not a lease id; make it with new_lease_id")
    return account


class Ledger(Protocol):
    """Where budgets are counted, each account (an organisation, or a tenant without one) by itself.

    Every operation raises StoreUnavailable when the store does not answer. Then it is unknown whether it ran:
    settle again by the same id; release the id of a reserve. "Left" is the least tokens that any limited
    window has left now, None if none is limited.
    """

    async def reserve(
        self, lease_id: str, account: str, scopes: Scopes, amount: Amount, ttl_s: float
    ) -> int | None:
        """Hold an amount in every window of every scope, or in none. A repeat of an open lease holds no more.

        Returns the tokens left. Raises BudgetDenied; LeaseNotOpen if the id was settled, released or has
        expired; ValueError if the lease is another account's.
        """
        ...

    async def extend(self, lease_id: str, extra: Amount, *, part: str = "") -> int | None:
        """Hold more for an open lease, checked as reserve does.

        `part` names the extension (a step of the plan, say), so that a repeat holds no more; without a name a
        repeat would. Returns the tokens left. Raises BudgetDenied (the lease stays as it was), LeaseNotOpen.
        """
        ...

    async def checkpoint(self, lease_id: str, used: Amount, ttl_s: float) -> Amount | None:
        """Renew the lease and remember what it has used so far: what it is charged if it expires.

        Returns the most of each unit that it was told, by anyone; None if it is not open any more. An expired
        one is charged what came since its last checkpoint.
        """
        ...

    async def settle(self, lease_id: str, used: Amount, *, exact: bool = False) -> int | None:
        """Charge what was used, to the windows of the reservation, and free the rest. Repeats do nothing.

        The lease's checkpoint is charged where it is larger, since whoever told it may be gone. `exact` is
        for those who know all that was spent: a checkpoint may have counted a prompt by its upper bound.
        Returns the tokens left. Raises LeaseNotOpen (unknown or released).
        """
        ...

    async def release(self, lease_id: str) -> None:
        """Free the hold and charge nothing; only where nothing was spent.

        Right for an id whose reserve timed out: should that run later, it holds nothing. Raises LeaseNotOpen
        if there is something to settle, or was.
        """
        ...

    async def peek(self, account: str, scopes: Scopes) -> tuple[Gauge, ...]:
        """Every unit in every window of every scope as it is now, at one moment, in the order of `scopes`."""
        ...


class RedisLedger:
    """The ledger on Redis 7 or Valkey; its keys are `acr:{account}:...`: an account is one cluster slot.

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
        self, lease_id: str, account: str, scopes: Scopes, amount: Amount, ttl_s: float
    ) -> int | None:
        check_account(lease_id, account)
        windows: list[str] = []
        for scope, window, limits in flat(scopes):
            windows += [scope, window, _packed(limits)]
        ttl_ms = milliseconds("ttl_s", ttl_s)
        return _left(await self._run("reserve", lease_id, _sum(amount), ttl_ms, *windows), lease_id)

    async def extend(self, lease_id: str, extra: Amount, *, part: str = "") -> int | None:
        return _left(await self._run("extend", lease_id, _sum(extra), part), lease_id)

    async def checkpoint(self, lease_id: str, used: Amount, ttl_s: float) -> Amount | None:
        result = await self._run("checkpoint", lease_id, _sum(used), milliseconds("ttl_s", ttl_s))
        return Amount(*result[1:]) if result[0] == "ok" else None

    async def settle(self, lease_id: str, used: Amount, *, exact: bool = False) -> int | None:
        return _left(await self._run("settle", lease_id, _sum(used), int(exact)), lease_id)

    async def release(self, lease_id: str) -> None:
        result = await self._run("release", lease_id)
        if result[0] != "ok":
            raise LeaseNotOpen(lease_id, result[1])

    async def peek(self, account: str, scopes: Scopes) -> tuple[Gauge, ...]:
        asked = flat(scopes)
        args = [part for scope, window, _ in asked for part in (scope, window)]
        key = _key(_named("account", account), "holds")
        call = self._scripts["peek"](keys=[key], args=args)
        reply = shaped(await answer(call, f"the budgets of {account}"), len(asked) * (1 + 2 * len(UNITS)))
        told = iter(reply)
        gauges: list[Gauge] = []
        for scope, window, limits in asked:
            reset_s = next(told) / 1000.0
            for unit in UNITS:
                used, held = next(told), next(told)
                gauges.append(Gauge(scope, window, used, held, limits.get(unit), reset_s, unit))
        return tuple(gauges)

    async def _run(self, name: str, lease_id: str, *args: str | int) -> list[Any]:
        account = account_of(lease_id)
        lease = _named("lease", lease_id[len(account) + 1 :])
        keys = [_key(_named("account", account), "holds"), _key(account, f"lease:{lease}")]
        call = self._scripts[name](keys=keys, args=[lease, *args])
        return shaped(await answer(call, f"the budgets of {account}"), 1)


def check_account(lease_id: str, account: str) -> None:
    """Raises ValueError if the lease is another account's."""
    if account_of(lease_id) != account:
        raise ValueError(f"lease id {lease_id!r} is not of account {account!r}; make it with new_lease_id")


def flat(scopes: Scopes) -> list[tuple[str, str, Mapping[Unit, int]]]:
    """Scope, window and limits of each window. Raises ValueError for what is unknown or out of range."""
    found: list[tuple[str, str, Mapping[Unit, int]]] = []
    for scope, windows in scopes:
        for window, limits in windows.items():
            if window not in WINDOWS:
                raise ValueError(f"no window {window!r}; there are {', '.join(WINDOWS)}")
            for unit, limit in limits.items():
                if unit not in UNITS:
                    raise ValueError(f"no unit {unit!r}; there are {', '.join(UNITS)}")
                whole("limit", limit)
            found.append((_named("scope", scope), window, limits))
    return found


def _sum(amount: Amount) -> str:
    return f"{amount.tokens},{amount.gpu_ms},{amount.micro_usd}"


def _packed(limits: Mapping[Unit, int]) -> str:
    return ",".join(str(limits.get(unit, "-")) for unit in UNITS)


def _left(result: list[Any], lease_id: str) -> int | None:
    if result[0] == "denied":
        scope, window, unit, remaining, wait_ms, *left = result[1:]
        known = {name: least for name, least in zip(UNITS, left, strict=True) if least >= 0}
        raise BudgetDenied(scope, window, remaining, wait_ms / 1000.0, unit, known)
    if result[0] != "ok":
        raise LeaseNotOpen(lease_id, result[1])
    return None if result[1] < 0 else int(result[1])


def _named(what: str, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{what} {name!r} may have letters, digits and _.:- only")
    return name


def _key(account: str, rest: str) -> str:
    return f"acr:{{{account}}}:{rest}"
