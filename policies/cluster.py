"""A Redis Cluster as this package uses it: every command has one key, and goes to the node that has it."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import ClusterDownError, MovedError, RedisError

Address = tuple[str, int]
Argument = str | int | bytes | float
Pipeline = Callable[[Redis, list[Sequence[Argument]]], Awaitable[list[Any]]]


class Cluster:
    """A client for each node, made when a slot of it is first asked for; `seed` tells who has which slot.

    Where that has changed, what a node sends elsewhere is sent there, once. Nothing is retried that failed.
    """

    def __init__(self, seed: Address, make: Callable[[Address], Redis]) -> None:
        self._make = make
        self._seed = seed
        self._clients: dict[Address, Redis] = {}
        self._starts: list[int] = []
        self._owners: list[Address] = []
        self._looking = asyncio.Lock()

    async def execute(self, commands: list[Sequence[Argument]], pipeline: Pipeline) -> list[Any]:
        """A reply or an error for each command. Raises RedisError or OSError where no node answers."""
        replies: list[Any] = [None] * len(commands)
        await self._send(commands, range(len(commands)), replies, pipeline)
        moved = [number for number, reply in enumerate(replies) if isinstance(reply, MovedError)]
        if moved:
            self._starts = []
            await self._send(commands, moved, replies, pipeline)
        failed = [reply for reply in replies if isinstance(reply, _NoReply)]
        if failed:
            self._starts = []  # somebody else may have its slots soon
            if len(failed) == len(replies):
                raise failed[0].cause
        return [reply.cause if isinstance(reply, _NoReply) else reply for reply in replies]

    async def execute_command(self, *command: Argument) -> Any:
        """One command's reply. Raises RedisError, OSError."""

        async def alone(client: Redis, commands: list[Sequence[Argument]]) -> list[Any]:
            return [await client.execute_command(*commands[0])]  # type: ignore[no-untyped-call]

        (reply,) = await self.execute([command], alone)
        return reply

    async def ping(self) -> Any:
        """Does the cluster tell who has which slot?"""
        await self._look()
        return True

    async def aclose(self) -> None:
        """Close the clients of all nodes."""
        for client in self._clients.values():
            await client.aclose()

    async def _send(
        self,
        commands: list[Sequence[Argument]],
        numbers: Sequence[int],
        replies: list[Any],
        pipeline: Pipeline,
    ) -> None:
        if not self._starts:
            await self._look()
        parts: dict[Address, list[int]] = {}
        for number in numbers:
            parts.setdefault(self._owner(_key(commands[number])), []).append(number)

        async def to_one(address: Address, own: list[int]) -> None:
            try:
                found = await pipeline(self._client(address), [commands[number] for number in own])
            except (RedisError, OSError) as error:
                found = [_NoReply(error)] * len(own)
            for number, reply in zip(own, found, strict=True):
                replies[number] = reply

        async with asyncio.TaskGroup() as group:
            for address, own in parts.items():
                group.create_task(to_one(address, own))

    def _owner(self, key: str | bytes) -> Address:
        slot = key_slot(key if isinstance(key, bytes) else key.encode())
        return self._owners[bisect_right(self._starts, slot) - 1]

    def _client(self, address: Address) -> Redis:
        if address not in self._clients:
            self._clients[address] = self._make(address)
        return self._clients[address]

    async def _look(self) -> None:
        """Ask for the slots: the seed, else any node that was known. Raises what the last one raised."""
        async with self._looking:
            if self._starts:
                return
            error: RedisError | OSError = ClusterDownError("no node tells who has which slot")
            for address in dict.fromkeys((self._seed, *self._clients)):
                try:
                    client = self._client(address)
                    told = await client.execute_command("CLUSTER SLOTS")  # type: ignore[no-untyped-call]
                except (RedisError, OSError) as failed:
                    error = failed
                    continue
                owners = sorted(_owner_of(row, address) for row in told)
                if owners and owners[0][0] == 0:
                    self._starts = [first for first, _ in owners]
                    self._owners = [owner for _, owner in owners]
                    return
            raise error


def _owner_of(row: Sequence[Any], asked: Address) -> tuple[int, Address]:
    """First slot and primary of [first, last, [host, port, ...], ...]; no host is the host that was asked."""
    host, port = row[2][0], int(row[2][1])
    text = host.decode() if isinstance(host, bytes) else host
    return int(row[0]), (text or asked[0], port)


class _NoReply:
    """A node did not answer; `cause` says how."""

    def __init__(self, cause: RedisError | OSError) -> None:
        self.cause = cause


def _key(command: Sequence[Argument]) -> str | bytes:
    key = command[3] if command[0] in ("EVALSHA", "EVAL") else command[1]
    return key if isinstance(key, bytes) else str(key)
