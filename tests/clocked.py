"""The Redis ledger on a clock of the test's own: its scripts read the time from a key instead of TIME."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from redis.asyncio import Redis

from policies.amounts import Unit
from policies.ledger import Gauge, Ledger, RedisLedger, Scopes
from policies.memory_ledger import InMemoryLedger
from policies.store import lua_source

# In the future, so that the server, which lives in the present, expires none of the keys meanwhile.
START_MS = 1_956_528_000_000  # 2032-01-01T00:00:00Z, the first of a month and of a leap year
_SERVER_TIME = "redis.call('TIME')"
_TEST_TIME = """(function()
  local ms = tonumber(redis.call('GET', KEYS[1] .. ':now'))
  return { string.format('%.0f', math.floor(ms / 1000)), string.format('%.0f', ms % 1000 * 1000) }
end)()"""


def windows(**tokens: int | None) -> dict[str, dict[Unit, int]]:
    """Windows limited in tokens, as the ledger takes them: `windows(minute=10, day=None)`."""
    return {window: {} if limit is None else {"tokens": limit} for window, limit in tokens.items()}


async def token_gauges(ledger: Ledger, account: str, scopes: Scopes) -> list[Gauge]:
    return [gauge for gauge in await ledger.peek(account, scopes) if gauge.unit == "tokens"]


def clocked_source(name: str) -> str:
    text = lua_source(name)
    if name == "common" and _SERVER_TIME not in text:
        raise AssertionError("common.lua does not ask for the time any more")
    return text.replace(_SERVER_TIME, _TEST_TIME)


@dataclass(slots=True)
class World:
    """A ledger, a tenant that nobody else has, and their time."""

    ledger: Ledger
    tenant: str
    client: Redis | None = None
    now_ms: int = START_MS

    async def at(self, now_ms: int) -> None:
        self.now_ms = now_ms
        if self.client is not None:
            await self.client.set(f"acr:{{{self.tenant}}}:holds:now", now_ms)

    async def later(self, seconds: float) -> None:
        await self.at(self.now_ms + round(seconds * 1000))

    def lease(self, name: str = "1") -> str:
        return f"{self.tenant}:{name}"


async def redis_world(client: Redis) -> World:
    tenant = "t" + secrets.token_hex(8)
    world = World(RedisLedger(client, source=clocked_source), tenant, client)
    await world.at(START_MS)
    return world


def memory_world() -> World:
    world = World(InMemoryLedger(), "t" + secrets.token_hex(8))
    world.ledger = InMemoryLedger(lambda: world.now_ms / 1000.0)
    return world
