"""Rate limits on a clock of the test's own, in memory and on a real server."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from redis.asyncio import Redis

from policies.errors import LimitExceeded
from policies.limit_spec import Limits
from policies.limits import LimitScopes, LimitUsage, RateLimits, RedisLimits
from policies.memory_limits import MemoryLimits
from policies.store import lua_source

START_US = 1_956_528_000_000_000  # 2032: the server, which lives in the present, expires nothing meanwhile
_SERVER_TIME = "redis.call('TIME')"
_TEST_TIME = """(function()
  local now = redis.call('GET', string.match(KEYS[1], '^acr:{.-}:') .. 'now')
  return { string.sub(now, 1, -7), string.sub(now, -6) }
end)()"""


def _source(name: str) -> str:
    text = lua_source(name)
    if name == "gcra" and _SERVER_TIME not in text:
        raise AssertionError("gcra.lua does not ask for the time any more")
    return text.replace(_SERVER_TIME, _TEST_TIME)


@dataclass(slots=True)
class Gate:
    """The limits of a tenant that nobody else has, then of a key of its; `now_us` is their time."""

    client: Redis | None
    limits: tuple[Limits, ...]
    tenant: str = field(default_factory=lambda: "t" + secrets.token_hex(8))
    now_us: int = START_US
    store: RateLimits = field(init=False)
    slots: int = 0

    def __post_init__(self) -> None:
        if self.client is None:
            self.store = MemoryLimits(lambda: self.now_us / 1e6)
        else:
            self.store = RedisLimits(self.client, source=_source)

    @property
    def scopes(self) -> LimitScopes:
        return list(zip(("tenant", "key:k1"), self.limits, strict=False))

    async def later(self, seconds: float) -> None:
        self.now_us += round(seconds * 1e6)

    async def admit(
        self, tokens: int = 0, slot: str = "", ttl_s: float = 30.0, least: int | None = None
    ) -> LimitUsage:
        self.slots += 1
        slot = slot or str(self.slots)
        await self._tell_the_time()
        return await self.store.admit(
            self.tenant,
            self.scopes,
            slot_id=slot,
            tokens=tokens,
            least_tokens=tokens if least is None else least,
            ttl_s=ttl_s,
        )

    async def refused(self, tokens: int = 0) -> LimitExceeded:
        try:
            await self.admit(tokens)
        except LimitExceeded as error:
            return error
        raise AssertionError("it was admitted")

    async def leave(self, slot: str, tokens: int | None = None) -> None:
        await self._tell_the_time()
        await self.store.leave(self.tenant, self.scopes, slot, tokens=tokens)

    async def _tell_the_time(self) -> None:
        if self.client is not None:
            await self.client.set(f"acr:{{{self.tenant}}}:now", self.now_us)
