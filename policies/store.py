"""Redis as this package uses it: explicit timeouts, no retries, one client an event loop, one error.

A timed-out command is unknown, not failed: it may still run. Every operation here is idempotent by id.
"""

from __future__ import annotations

from collections.abc import Awaitable
from importlib.resources import files
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from policies.amounts import whole as whole
from policies.errors import StoreUnavailable


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
    redis-py spends seconds on a server that is down. Raises ValueError for a bad url.
    """
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


async def answer(command: Awaitable[Any]) -> Any:
    """The command's reply. The one place where redis errors become StoreUnavailable."""
    try:
        return await command
    except (RedisError, OSError) as error:
        name = type(error).__name__
        raise StoreUnavailable(f"the budget store did not answer ({name}); check that it is up") from error


def lua_source(name: str) -> str:
    """The text of `lua/<name>.lua`, which is package data."""
    return files("policies").joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")


def milliseconds(name: str, seconds: float) -> int:
    """Seconds as whole milliseconds, at least 1."""
    return whole(name, round(seconds * 1000), least=1)
