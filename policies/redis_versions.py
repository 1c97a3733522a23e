"""What is published, in Redis or Valkey: every value is sealed, and checked when it is read."""

from __future__ import annotations

from collections.abc import Awaitable, Collection
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from policies.batches import Batches, serves_nobody
from policies.breaker import said
from policies.errors import NotSealed, StoreDamaged, StoreUnavailable
from policies.published import Entry, Published
from policies.sealed import Seal
from policies.store import lua_source
from policies.versions import MAX_HISTORY, POLICIES, REPORT_TTL_S, Report, Shelf, Tally, unknown

TALLY_TTL_S = 30 * 86400

STATE, ENTRY, REPORT, TALLY = "state", "entry", "report", "tally"


class RedisVersions:
    """In Redis or Valkey, beside the budgets. `client` returns bytes (`decode_responses=False`).

    Keys: `state`, `documents` (hash), `history` (list), `replicas` (set), `replica:<id>` and
    `shadow:<version>` (hash), all behind the shelf's prefix (or `prefix`), whose hash tag keeps them on one
    node of a cluster.
    """

    def __init__(
        self, client: Redis, secret: bytes, shelf: Shelf = POLICIES, *, prefix: str | None = None
    ) -> None:
        self.shelf = shelf
        self._batches = Batches(client)
        self._publish = self._batches.script(lua_source("publish"))
        self._time = self._batches.script("return redis.call('TIME')")  # of the node that has the state
        self._seal = Seal(secret, shelf.context)
        self._prefix = shelf.prefix if prefix is None else prefix

    async def now_ms(self) -> int:
        seconds, micros = await self._heard(self._time(keys=[self._key(STATE)], args=[]))
        return int(seconds) * 1000 + int(micros) // 1000

    async def raw_state(self) -> bytes:
        raw: bytes | None = await self._ask("GET", self._key(STATE))
        return raw or b""

    def opened(self, raw: bytes) -> Published:
        state = self._seal.read(STATE, raw, Published) if raw else Published()
        if state is None:
            raise NotSealed("what is published")
        return state

    async def document(self, version: str) -> str:
        sealed: bytes | None = await self._ask("HGET", self._key("documents"), version)
        if sealed is None:
            raise unknown(version, self.shelf)
        text = self._seal.open(_label(version), sealed)
        if text is None:
            raise NotSealed(f"the {self.shelf.noun} {version}")
        return text.decode("utf-8", "replace")

    async def known(self) -> tuple[str, ...]:
        names: list[bytes] = await self._ask("HKEYS", self._key("documents"))
        return tuple(sorted(name.decode("utf-8", "replace") for name in names))

    async def keep(self, version: str, text: str) -> None:
        sealed = self._seal.close(_label(version), text.encode("utf-8"))
        await self._ask("HSET", self._key("documents"), version, sealed)

    async def commit(
        self,
        seen: bytes,
        state: Published,
        entry: Entry,
        document: tuple[str, str] | None = None,
        forget: Collection[str] = (),
    ) -> bool:
        version, sealed = "", b""
        if document is not None:
            version = document[0]
            sealed = self._seal.close(_label(version), document[1].encode("utf-8"))
        keys = [self._key(name) for name in (STATE, "documents", "history")]
        args: list[str | bytes | int] = [seen, self._seal.write(STATE, state)]
        args += [self._seal.write(ENTRY, entry), MAX_HISTORY, version, sealed, *sorted(forget)]
        call = self._publish(keys=keys, args=args)
        return bool(await self._heard(call))

    async def history(self, count: int = MAX_HISTORY) -> list[Entry]:
        values: list[bytes] = await self._ask("LRANGE", self._key("history"), 0, count - 1)
        found = [self._seal.read(ENTRY, value, Entry) for value in values]
        return [entry for entry in found if entry is not None]

    async def report(self, report: Report) -> None:
        value = self._seal.write(REPORT, report)
        ttl_ms = int(REPORT_TTL_S * 1000)
        await self._ask("SET", self._key(f"replica:{report.replica}"), value, "PX", ttl_ms)
        await self._ask("SADD", self._key("replicas"), report.replica)

    async def reports(self) -> list[Report]:
        names: list[bytes] = sorted(await self._ask("SMEMBERS", self._key("replicas")))
        if not names:
            return []
        values = await self._ask("MGET", *(self._key("replica:").encode() + name for name in names))
        gone = [name for name, value in zip(names, values, strict=True) if value is None]
        if gone:
            await self._ask("SREM", self._key("replicas"), *gone)  # a report brings one back
        found = [self._seal.read(REPORT, value, Report) for value in values if value is not None]
        return [report for report in found if report is not None]

    async def tally(self, version: str, replica: str, tally: Tally) -> None:
        key = self._key(f"shadow:{version}")
        await self._ask("HSET", key, replica, self._seal.write(TALLY, tally))
        await self._ask("EXPIRE", key, TALLY_TTL_S)

    async def tallied(self, version: str) -> Tally:
        values: list[bytes] = await self._ask("HVALS", self._key(f"shadow:{version}"))
        total = Tally()
        for value in values:
            total = total.plus(self._seal.read(TALLY, value, Tally) or Tally())
        return total

    def _key(self, name: str) -> str:
        return self._prefix + name

    async def _ask(self, *command: str | bytes | int) -> Any:
        return await self._heard(self._batches.execute(*command))

    async def _heard(self, command: Awaitable[Any]) -> Any:
        """The reply; every failure is store trouble. Not logged here: whoever follows asks twice a second."""
        try:
            return await command
        except ResponseError as error:
            if serves_nobody(error):
                raise StoreUnavailable(f"the store cannot serve ({said(error)}); see its log") from error
            raise StoreDamaged(f"the published {self.shelf.plural}") from error
        except (RedisError, OSError) as error:
            raise StoreUnavailable(
                f"the store did not answer ({said(error)}); check that it is up"
            ) from error


def _label(version: str) -> str:
    return f"document {version}"
