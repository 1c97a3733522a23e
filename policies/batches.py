"""Commands of concurrent requests, sent together: fewer packets and system calls than one each.

While one pipeline is on its way the next gathers (group commit), so that a lone request waits for nobody and
a crowd shares. A command keeps its own reply and its own error.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import (
    ClusterDownError,
    InvalidResponse,
    MasterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from policies.breaker import Breaker, StoreResting
from policies.cluster import Cluster

Argument = str | int | bytes | float
Waiting = tuple[Sequence[Argument], asyncio.Future[Any]]

MAX_BATCH = 64
LOOK_AGAIN = 10
PROBE_KEY = "acr:probe"

# What a server answers to a single command when it can serve nobody. LOADING and NOAUTH are ConnectionErrors.
_SERVES_NOBODY = (ReadOnlyError, OutOfMemoryError, NoPermissionError, MasterDownError, ClusterDownError)
_SERVES_NOBODY_CODES = ("MISCONF", "NOREPLICAS", "BUSY", "UNKILLABLE")


class Batches:
    """A client's commands, batched. For one event loop.

    Cancelling a caller withdraws its command if it has not been sent; sent, it runs, and nobody waits.
    With `guarded`, the store's name in the log, a breaker stands before it: while the store does not answer,
    every command fails at once. `round_trip_s` bounds a batch, connecting included; None leaves that to the
    client's own timeouts.
    """

    def __init__(
        self, client: Redis | Cluster, *, guarded: str | None = None, round_trip_s: float | None = None
    ) -> None:
        self._client = client
        self._round_trip_s = round_trip_s
        self._waiting: deque[Waiting] = deque()
        self._sender: asyncio.Task[None] | None = None
        self.breaker = Breaker(guarded, self._probe) if guarded else None

    async def execute(self, *command: Argument) -> Any:
        """The command's raw reply. Raises the RedisError or OSError that it met."""
        if self.breaker is not None:
            self.breaker.check()
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((command, reply))
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send())
        return await reply

    def script(self, text: str) -> Script:
        """A Lua script to be called by its hash."""
        return Script(self, text)

    async def aclose(self) -> None:
        """End the breaker's probing; the client is its owner's to close."""
        if self.breaker is not None:
            await self.breaker.aclose()

    async def _send(self) -> None:
        while self._waiting:
            taken = [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))]
            batch = [(command, reply) for command, reply in taken if not reply.cancelled()]
            if not batch:
                continue
            try:
                replies = await self._replies([command for command, _ in batch])
            except BaseException:
                for _, reply in batch:
                    reply.cancel()
                raise
            for (_, reply), value in zip(batch, replies, strict=True):
                if reply.done():
                    continue
                if isinstance(value, Exception):
                    reply.set_exception(value)
                else:
                    reply.set_result(value)

    async def _replies(self, commands: list[Sequence[Argument]]) -> list[Any]:
        """A reply or an error for each command; the breaker learns how it went.

        A connection that breaks after some replies is no failure of the store: those who got theirs keep it.
        """
        replies: list[Any] = []
        try:
            if self.breaker is not None:
                self.breaker.check()  # it may have opened while these waited
            await self._in_time(commands, replies)
        except StoreResting as error:
            return [error] * len(commands)
        except (RedisError, OSError) as error:
            if self.breaker is not None and not replies:
                self.breaker.failed(error)
            return replies + [error] * (len(commands) - len(replies))
        if self.breaker is not None:
            refusal = next((reply for reply in replies if serves_nobody(reply)), None)
            self.breaker.succeeded() if refusal is None else self.breaker.failed(refusal)
        return replies

    async def _probe(self) -> Exception | None:
        """A small write, since a server that is full or read-only still answers PING."""
        replies: list[Any] = []
        try:
            await self._in_time([("SET", PROBE_KEY, "1", "EX", 60)], replies)
        except (RedisError, OSError) as error:
            return error
        return replies[0] if isinstance(replies[0], Exception) else None

    async def _in_time(self, commands: list[Sequence[Argument]], replies: list[Any]) -> None:
        """Append all replies, or as many as came before the error that is raised; TimeoutError if it is time.

        Where this process stood still, replies that lie there count as in time: a timer alone would take the
        store for slow whenever the event loop was.
        """
        work = asyncio.create_task(self._pipelined(commands, replies))
        try:
            await asyncio.wait({work}, timeout=self._round_trip_s)
            for _ in range(LOOK_AGAIN):
                if work.done():
                    work.result()
                    return
                await asyncio.sleep(0)
        except UnicodeDecodeError as error:
            raise InvalidResponse("a reply that is not text") from error
        finally:
            work.cancel()
        raise TimeoutError

    async def _pipelined(self, commands: list[Sequence[Argument]], replies: list[Any]) -> None:
        """All commands down one connection, then all replies; half the work of redis-py's own pipeline."""
        if isinstance(self._client, Cluster):
            replies += await self._client.execute(commands, _all_of)
        else:
            await _pipelined(self._client, commands, replies)


async def _all_of(client: Redis, commands: list[Sequence[Argument]]) -> list[Any]:
    replies: list[Any] = []
    await _pipelined(client, commands, replies)
    return replies


async def _pipelined(client: Redis, commands: list[Sequence[Argument]], replies: list[Any]) -> None:
    """As `Batches._pipelined`, on one server; `replies` get there as they come."""
    pool = client.connection_pool
    connection = await pool.get_connection()  # type: ignore[no-untyped-call]
    try:
        await connection.send_packed_command(connection.pack_commands(commands))
        for command in commands:
            try:
                reply = await connection.read_response()
            except ResponseError as error:  # this command's own; the next reply follows
                reply = error
            if command[0] in ("EVALSHA", "EVAL") and isinstance(reply, str | bytes):
                raise InvalidResponse("a reply that no script of ours gives")
            replies.append(reply)
    except BaseException:
        # Replies may still be on their way: nobody else may read them.
        await connection.disconnect(nowait=True)
        raise
    finally:
        await pool.release(connection)


class Script:
    """Called by its SHA-1; loaded again when the server has forgotten it."""

    def __init__(self, batches: Batches, text: str) -> None:
        self._batches = batches
        self._text = text
        self._sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, *, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        try:
            return await self._batches.execute("EVALSHA", self._sha, len(keys), *keys, *args)
        except NoScriptError:
            return await self._batches.execute("EVAL", self._text, len(keys), *keys, *args)


def serves_nobody(reply: object) -> bool:
    """Is this the error of a server that can serve no command now, rather than of this one command?"""
    if isinstance(reply, _SERVES_NOBODY):
        return True
    return isinstance(reply, ResponseError) and str(reply).startswith(_SERVES_NOBODY_CODES)
