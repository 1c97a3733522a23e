"""Where published policies are kept: documents by version, the state that replicas follow, the history.

Every value is sealed (`policies/sealed.py`) and checked when it is read.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Protocol

from pydantic import Field
from redis.asyncio import Redis

from policies.arm_spec import PolicyModel
from policies.batches import Batches
from policies.errors import NotSealed, UnknownVersion
from policies.published import Count, Entry, Published
from policies.sealed import Seal
from policies.store import answer, lua_source

MAX_HISTORY = 500
KEEP_VERSIONS = 100
REPORT_TTL_S = 5.0
TALLY_TTL_S = 30 * 86400

STATE, ENTRY, REPORT, TALLY = "state", "entry", "report", "tally"


class Report(PolicyModel):
    """What a replica says about itself: the versions that decide there, and what it could not follow.

    `boot` is the version of its app config's policy, `left_out` are arms that no tier there can run.
    """

    replica: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,80}$")]
    number: Count
    boot: str
    current: str
    canary: str | None = None
    shadow: str | None = None
    left_out: tuple[str, ...] = ()
    trouble: str | None = None


class Tally(PolicyModel):
    """What a shadow would have done, beside what was done; one replica's count since its start.

    `planned` requests were compared, `differ` of them would have begun with another arm (`refused` with
    none); `errors` could not be compared. Tokens are those that the first steps of both plans hold.
    """

    planned: Count = 0
    differ: Count = 0
    refused: Count = 0
    errors: Count = 0
    tokens: Count = 0
    shadow_tokens: Count = 0

    def plus(self, other: Tally) -> Tally:
        mine, theirs = self.model_dump(), other.model_dump()
        return Tally(**{name: mine[name] + theirs[name] for name in mine})


class Versions(Protocol):
    """Published policies. Every operation raises StoreUnavailable where the store does not answer."""

    async def now_ms(self) -> int:
        """The store's time."""
        ...

    async def raw_state(self) -> bytes:
        """The state as the store has it, believed or not; b"" where nothing was published."""
        ...

    def opened(self, raw: bytes) -> Published:
        """What a raw state says. Raises NotSealed where a stranger wrote it."""
        ...

    async def document(self, version: str) -> str:
        """The policy's text as it was pushed. Raises UnknownVersion, NotSealed."""
        ...

    async def known(self) -> tuple[str, ...]:
        """Every version whose document is kept."""
        ...

    async def keep(self, version: str, text: str) -> None:
        """Keep a document that nobody published: the app config's policy of a replica."""
        ...

    async def commit(
        self,
        seen: bytes,
        state: Published,
        entry: Entry,
        document: tuple[str, str] | None = None,
        forget: Collection[str] = (),
    ) -> bool:
        """Replace the state if it is still `seen`, with all that goes with it; False if it is not."""
        ...

    async def history(self, count: int = MAX_HISTORY) -> list[Entry]:
        """Changes, newest first; what is not sealed is left out."""
        ...

    async def report(self, report: Report) -> None: ...

    async def reports(self) -> list[Report]:
        """Of the replicas that reported within REPORT_TTL_S."""
        ...

    async def tally(self, version: str, replica: str, tally: Tally) -> None:
        """A replica's whole count: said twice it counts once."""
        ...

    async def tallied(self, version: str) -> Tally:
        """The sum over all replicas."""
        ...


class RedisVersions:
    """In Redis or Valkey, beside the budgets. `client` returns bytes (`decode_responses=False`).

    Keys: `state`, `documents` (hash), `history` (list), `replicas` (set), `replica:<id>` and
    `shadow:<version>` (hash), all behind `prefix`, whose hash tag keeps them on one node of a cluster.
    """

    def __init__(self, client: Redis, secret: bytes, *, prefix: str = "acr-policy:{published}:") -> None:
        self._batches = Batches(client)
        self._publish = self._batches.script(lua_source("publish"))
        self._seal = Seal(secret)
        self._prefix = prefix

    async def now_ms(self) -> int:
        seconds, micros = await self._ask("TIME")
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
            raise unknown(version)
        text = self._seal.open(_label(version), sealed)
        if text is None:
            raise NotSealed(f"the policy {version}")
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
        return bool(await answer(call))

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
        return await answer(self._batches.execute(*command))


def unknown(version: str) -> UnknownVersion:
    return UnknownVersion(f"the store keeps no policy {version}; `acr policy list` names those that it does")


def _label(version: str) -> str:
    return f"document {version}"
