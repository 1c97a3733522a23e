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
from redis.exceptions import NoScriptError, RedisError, ResponseError

Argument = str | int | bytes | float

MAX_BATCH = 64


class Batches:
    """A client's commands, batched. For one event loop.

    Cancelling a caller withdraws its command if it has not been sent; sent, it runs, and nobody waits.
    """

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._waiting: deque[tuple[Sequence[Argument], asyncio.Future[Any]]] = deque()
        self._sender: asyncio.Task[None] | None = None

    async def execute(self, *command: Argument) -> Any:
        """The command's raw reply. Raises the RedisError or OSError that it met."""
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((command, reply))
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send())
        return await reply

    def script(self, text: str) -> Script:
        """A Lua script to be called by its hash."""
        return Script(self, text)

    async def _send(self) -> None:
        while self._waiting:
            taken = [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))]
            batch = [(command, reply) for command, reply in taken if not reply.cancelled()]
            if not batch:
                continue
            try:
                replies = await self._pipelined([command for command, _ in batch])
            except (RedisError, OSError) as error:
                replies = [error] * len(batch)
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

    async def _pipelined(self, commands: list[Sequence[Argument]]) -> list[Any]:
        """All commands down one connection, then all replies; half the work of redis-py's own pipeline."""
        pool = self._client.connection_pool
        connection = await pool.get_connection()  # type: ignore[no-untyped-call]
        replies: list[Any] = []
        try:
            await connection.send_packed_command(connection.pack_commands(commands))
            for _ in commands:
                try:
                    replies.append(await connection.read_response())
                except ResponseError as error:  # this command's own; the next reply follows
                    replies.append(error)
        except BaseException:
            # Replies may still be on their way: nobody else may read them.
            await connection.disconnect(nowait=True)
            raise
        finally:
            await pool.release(connection)
        return replies


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
