"""Where Idempotency-Keys are kept: in flight, or with the reply that they got."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from policies import errors as policy
from policies.breaker import Breaker
from policies.later import Later
from policies.store import answer
from router.cancellation import heeding_cancellation
from router.errors import IdempotencyInFlight, IdempotencyReused, StoreUnavailable
from router.keys import seal, unseal

# Longer than any deadline that a request may have: a crashed replica frees its keys after this.
IN_FLIGHT_S = 660.0
KEPT_S = 3600.0

WHAT = "the idempotency keys"
UNMARK = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"


class IdempotencyStore(Protocol):
    """One record a tenant and key. `fingerprint` is the digest of the body it came with."""

    async def begin(self, tenant: str, key: str, fingerprint: str) -> bytes | None:
        """None: it is yours, run it and call `finish`. Bytes: the reply of the run before.

        Raises IdempotencyInFlight, IdempotencyReused (another body), StoreUnavailable (nobody can say).
        """
        ...

    async def finish(self, tenant: str, key: str, fingerprint: str, reply: bytes | None) -> None:
        """Keep the reply, or with None give the key back. Never raises: the answer is there already."""
        ...


@dataclass(frozen=True, slots=True)
class _Record:
    fingerprint: str
    reply: bytes | None
    expires_s: float


class MemoryIdempotency:
    """For one process. Records beyond `max_records` go, those in flight last."""

    def __init__(self, max_records: int = 1024, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_records = max_records
        self._clock = clock
        self._records: OrderedDict[tuple[str, str], _Record] = OrderedDict()

    async def begin(self, tenant: str, key: str, fingerprint: str) -> bytes | None:
        now_s = self._clock()
        record = self._records.get((tenant, key))
        if record is not None and record.expires_s > now_s:
            return _told(record.fingerprint, record.reply, fingerprint)
        self._keep((tenant, key), _Record(fingerprint, None, now_s + IN_FLIGHT_S))
        return None

    async def finish(self, tenant: str, key: str, fingerprint: str, reply: bytes | None) -> None:
        if reply is None:
            self._records.pop((tenant, key), None)
        else:
            self._keep((tenant, key), _Record(fingerprint, reply, self._clock() + KEPT_S))

    def _keep(self, where: tuple[str, str], record: _Record) -> None:
        self._records[where] = record
        self._records.move_to_end(where)
        if len(self._records) > self._max_records:
            done = (place for place, kept in self._records.items() if kept.reply is not None)
            victim = next(done, None)
            if victim is not None:
                del self._records[victim]


class RedisIdempotency:
    """For all replicas, in Redis or Valkey. `client` is a redis.asyncio client with short timeouts, `breaker`
    that of its store: while it is open, nothing is sent.

    Values are sealed like cached answers, so that whoever can write to the store cannot put words into
    this service's mouth. A store that does not answer means StoreUnavailable: whoever sends a key asks
    for "at most once", and without the store nobody can promise it.
    """

    def __init__(
        self,
        client: Any,
        secret: bytes,
        prefix: str = "acr:idempotency:",
        breaker: Breaker | None = None,
    ) -> None:
        self._client = client
        self._breaker = breaker
        self._later = Later()
        self._secret = secret
        self._prefix = prefix

    async def begin(self, tenant: str, key: str, fingerprint: str) -> bytes | None:
        name = self._name(tenant, key)
        mark = self._record(name, tenant, f"{fingerprint} {secrets.token_hex(8)}", None)
        try:
            if self._breaker is not None:
                self._breaker.check()
            # SET NX GET: one step decides who is first and tells everyone else what is there.
            command = self._client.set(name, mark, nx=True, get=True, px=int(IN_FLIGHT_S * 1000))
            there = await heeding_cancellation(command)
        except asyncio.CancelledError:
            self._unmark_later(name, mark)
            raise
        except Exception as error:
            # Whether the mark was set is unknown. It would refuse the caller's own next attempt.
            self._unmark_later(name, mark)
            if self._breaker is not None:
                self._breaker.failed(error)
            message = "The idempotency store does not answer; send the request again later."
            raise StoreUnavailable(message, retry_after_s=1.0) from error
        if there is None:
            return None
        plain = unseal(self._secret, name, tenant, there)
        if plain is None:
            raise IdempotencyReused("Use another Idempotency-Key: the record of this one cannot be read.")
        head, _, reply = plain.partition(b"\n")
        kept = head.partition(b" ")[0]
        return _told(kept.decode("ascii"), reply or None, fingerprint)

    async def finish(self, tenant: str, key: str, fingerprint: str, reply: bytes | None) -> None:
        name = self._name(tenant, key)

        async def tell() -> None:
            if reply is None:
                await answer(self._client.delete(name), WHAT)
            else:
                record = self._record(name, tenant, fingerprint, reply)
                await answer(self._client.set(name, record, px=int(KEPT_S * 1000)), WHAT)

        try:
            await tell()
        except policy.StoreUnavailable:
            # The mark stays meanwhile, so the key is refused rather than run twice.
            self._later.put("the end of an idempotent request", tell)

    async def aclose(self) -> None:
        """Wait a while for what the store could not be told."""
        await self._later.aclose()

    def _unmark_later(self, name: str, mark: bytes) -> None:
        """Take a mark back if it was set, and only our own."""

        async def unmark() -> None:
            await answer(self._client.eval(UNMARK, 1, name, mark), WHAT)

        self._later.put("an idempotency mark", unmark)

    def _record(self, name: str, tenant: str, fingerprint: str, reply: bytes | None) -> bytes:
        return seal(self._secret, name, tenant, fingerprint.encode("ascii") + b"\n" + (reply or b""))

    def _name(self, tenant: str, key: str) -> str:
        # Keyed: the store's reader learns neither tenants nor their keys.
        digest = hmac.new(self._secret, json.dumps([tenant, key]).encode(), hashlib.sha256)
        return self._prefix + digest.hexdigest()


def _told(kept_fingerprint: str, reply: bytes | None, fingerprint: str) -> bytes | None:
    if kept_fingerprint != fingerprint:
        raise IdempotencyReused("Use another Idempotency-Key: this one was sent with another body.")
    if reply is None:
        message = "The request with this Idempotency-Key is still running; ask again in a moment."
        raise IdempotencyInFlight(message, retry_after_s=1.0)
    return reply
