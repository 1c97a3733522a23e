"""Redis as this package uses it: explicit timeouts, no retries, one client an event loop, one error.

A timed-out command is unknown, not failed: it may still run. Every operation here is idempotent by id.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from importlib.resources import files
from typing import Any, cast
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError

from policies.amounts import whole as whole
from policies.batches import Batches, serves_nobody
from policies.breaker import StoreResting, said
from policies.cluster import Address, Cluster
from policies.errors import StoreDamaged, StoreUnavailable

ROUND_TRIP_S = 0.5

log = logging.getLogger(__name__)


def connect(
    url: str,
    *,
    connect_timeout_s: float = 0.5,
    command_timeout_s: float = 1.0,
    pool_timeout_s: float = 1.0,
    max_connections: int = 32,
    decode_responses: bool = True,
) -> Redis:
    """A client for the running event loop; connects when first used, `aclose()` ends it.

    When all connections are busy a command waits `pool_timeout_s` for one. Retries are off: by default
    redis-py spends seconds on a server that is down. `redis+cluster://host:port` names any node of a Redis
    Cluster; the others are found by it. Raises ValueError for a bad url.
    """

    def single(url: str) -> Redis:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=max_connections,
            timeout=pool_timeout_s,
            socket_connect_timeout=connect_timeout_s,
            socket_timeout=command_timeout_s,
            retry=Retry(NoBackoff(), 0),
            decode_responses=decode_responses,
            protocol=2,  # RESP3 would add a handshake and maintenance notices that nothing here reads
        )
        return Redis.from_pool(pool)

    scheme, is_cluster, rest = url.partition("+cluster://")
    if is_cluster:
        parts = urlsplit(f"{scheme}://{rest}")

        def node(address: Address) -> Redis:
            host, port = address
            user = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
            return single(f"{parts.scheme}://{user}{host}:{port}/0?{parts.query}")

        return cast(Redis, Cluster((parts.hostname or "127.0.0.1", parts.port or 6379), node))
    return single(url)


async def answer(command: Awaitable[Any], purpose: str = "the budgets") -> Any:
    """The command's reply. The one place where redis errors become StoreUnavailable.

    StoreDamaged where only this command failed; `purpose` says in log and error what cannot be read.
    """
    try:
        return await command
    except StoreResting as error:
        raise StoreUnavailable(str(error)) from error
    except ResponseError as error:
        if isinstance(error, NoScriptError) or serves_nobody(error):
            raise StoreUnavailable(f"the budget store cannot serve ({said(error)}); see its log") from error
        log.error("%s cannot be read or written: %s", purpose, " ".join(str(error).split())[:200])
        raise StoreDamaged(purpose) from error
    except (RedisError, OSError) as error:
        raise StoreUnavailable(
            f"the budget store did not answer ({said(error)}); check that it is up"
        ) from error


def shaped(reply: Any, least: int) -> list[Any]:
    """`reply`, if it is a list of at least `least` elements. Raises StoreUnavailable."""
    if not isinstance(reply, list) or len(reply) < least:
        raise StoreUnavailable("the budget store gave an answer that makes no sense; is it the right server?")
    return reply


def guarded(url: str, name: str = "the budget store") -> tuple[Redis, Batches]:
    """A client, its owner's to close, and its commands behind a breaker that calls the store `name`."""
    client = connect(url)
    return client, Batches(client, guarded=name, round_trip_s=ROUND_TRIP_S)


def lua_source(name: str) -> str:
    """The text of `lua/<name>.lua`, which is package data."""
    return files("policies").joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")


def milliseconds(name: str, seconds: float) -> int:
    """Seconds as whole milliseconds, at least 1."""
    return whole(name, round(seconds * 1000), least=1)
