"""Where Idempotency-Keys are kept: in flight, or with the reply that they got."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any, Protocol

from policies import errors as policy
from policies.batches import Argument, Batches
from policies.breaker import Breaker
from policies.store import ROUND_TRIP_S, answer
from router.errors import IdempotencyInFlight, IdempotencyReused, StoreUnavailable
from router.keys import seal, unseal
from router.scripts import script_source

# A run says that it lives five times in this time; a crashed replica frees its keys after it. Longer would
# make callers of a crashed replica wait; shorter, and a replica that stalls for a while would lose its keys
# and let a retry run a second time.
IN_FLIGHT_S = 10.0
HEARTBEAT_S = IN_FLIGHT_S / 5
KEPT_S = 3600.0
PURPOSE = "an idempotency record"

# Of one reply as it is stored, and of all that a tenant has stored within an hour. Beyond them the key is
# still spent, its reply is not kept: the store is the budgets' and must never fill up.
MAX_REPLY_BYTES = 1 << 20
MAX_TENANT_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Ticket:
    """One use of a key: whose, which, the digest of the body it came with, and who runs it if anyone must."""

    tenant: str
    key: str
    fingerprint: str
    holder: str = field(default_factory=lambda: token_hex(16))


class IdempotencyStore(Protocol):
    """One record a tenant and key, in flight for IN_FLIGHT_S unless it is renewed, answered for KEPT_S."""

    async def begin(self, ticket: Ticket) -> bytes | None:
        """None: it is yours; run it, `renew` meanwhile and call `finish`. Bytes: the reply of the run before.

        Raises IdempotencyInFlight, IdempotencyReused (another body, or a reply that could not be kept),
        StoreUnavailable (nobody can say; it may be yours, so `finish` it).
        """
        ...

    async def renew(self, ticket: Ticket) -> None:
        """The run still lives. Never raises; a store that is away is told next time."""
        ...

    async def finish(self, ticket: Ticket, reply: bytes | None) -> bool:
        """Keep the reply, or with None give the key back; what is somebody else's by now stays.

        Never raises. False: the store did not answer, so say it again later; doing it twice is harmless.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Record:
    ticket: Ticket
    done: bool
    reply: bytes | None
    expires_s: float


class MemoryIdempotency:
    """For one process. Records beyond `max_records` go, those in flight last."""

    def __init__(self, max_records: int = 1024, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_records = max_records
        self._clock = clock
        self._records: OrderedDict[tuple[str, str], _Record] = OrderedDict()

    async def begin(self, ticket: Ticket) -> bytes | None:
        there = self._there(ticket)
        if there is not None:
            return _told(there.ticket.fingerprint, there.done, there.reply, ticket.fingerprint)
        self._keep(_Record(ticket, False, None, self._clock() + IN_FLIGHT_S))
        return None

    async def renew(self, ticket: Ticket) -> None:
        there = self._there(ticket)
        if there is None or (there.ticket == ticket and not there.done):
            self._keep(_Record(ticket, False, None, self._clock() + IN_FLIGHT_S))

    async def finish(self, ticket: Ticket, reply: bytes | None) -> bool:
        there = self._there(ticket)
        if there is not None and there.ticket != ticket:
            return True
        if reply is not None:
            kept = reply if len(reply) <= MAX_REPLY_BYTES else None
            self._keep(_Record(ticket, True, kept, self._clock() + KEPT_S))
        elif there is not None and not there.done:
            del self._records[ticket.tenant, ticket.key]
        return True

    def _there(self, ticket: Ticket) -> _Record | None:
        record = self._records.get((ticket.tenant, ticket.key))
        return record if record is not None and record.expires_s > self._clock() else None

    def _keep(self, record: _Record) -> None:
        where = record.ticket.tenant, record.ticket.key
        self._records[where] = record
        self._records.move_to_end(where)
        if len(self._records) > self._max_records:
            done = (place for place, kept in self._records.items() if kept.done)
            victim = next(done, None)
            if victim is not None:
                del self._records[victim]


class RedisIdempotency:
    """For all replicas, in Redis or Valkey. `client` must return bytes and have short timeouts.

    Values are sealed like cached answers, so that whoever can write to the store cannot put words into
    this service's mouth. A store that does not answer means StoreUnavailable: whoever sends a key asks
    for "at most once", and without the store nobody can promise it. `breaker` is that of the same server,
    if it has one.
    """

    def __init__(
        self,
        client: Any,
        secret: bytes,
        prefix: str = "acr:idempotency:",
        *,
        in_flight_s: float = IN_FLIGHT_S,
        max_tenant_bytes: int = MAX_TENANT_BYTES,
        breaker: Breaker | None = None,
    ) -> None:
        self._batches = Batches(client, round_trip_s=ROUND_TRIP_S)
        self._batches.breaker = breaker
        self._secret = secret
        self._prefix = prefix
        self._in_flight_ms = int(in_flight_s * 1000)
        self._max_tenant_bytes = max_tenant_bytes
        self._hold = self._batches.script(script_source("hold"))
        self._free = self._batches.script(script_source("free_if_mine"))
        self._keep = self._batches.script(script_source("keep_reply"))

    async def begin(self, ticket: Ticket) -> bytes | None:
        name = self._name(ticket)
        try:
            # SET NX GET: one step decides who is first and tells everyone else what is there.
            there = await answer(
                self._batches.execute(
                    "SET", name, self._mark(name, ticket), "NX", "GET", "PX", self._in_flight_ms
                ),
                PURPOSE,
            )
        except policy.StoreUnavailable as error:
            message = "The idempotency store does not answer; send the request again later."
            raise StoreUnavailable(message, retry_after_s=1.0) from error
        if there is None:
            return None
        plain = unseal(self._secret, name, ticket.tenant, there)
        if plain is None:
            raise IdempotencyReused("Use another Idempotency-Key: the record of this one cannot be read.")
        state, fingerprint, _, reply = plain.split(b"\n", 3)
        kept = reply if state == b"answered" else None
        return _told(fingerprint.decode("ascii"), state != b"running", kept, ticket.fingerprint)

    async def renew(self, ticket: Ticket) -> None:
        name = self._name(ticket)
        await self._did(self._hold(keys=[name], args=[self._mark(name, ticket), self._in_flight_ms]))

    async def finish(self, ticket: Ticket, reply: bytes | None) -> bool:
        name = self._name(ticket)
        mark = self._mark(name, ticket)
        if reply is None:
            return await self._did(self._free(keys=[name], args=[mark]))
        without = self._record(name, ticket, b"unkept", b"")
        record = self._record(name, ticket, b"answered", reply)
        if len(record) > MAX_REPLY_BYTES:
            record = without
        keys = [name, self._tenant_name(ticket.tenant) + ":bytes"]
        args: list[Argument] = [mark, record, without, int(KEPT_S * 1000), self._max_tenant_bytes]
        return await self._did(self._keep(keys=keys, args=args))

    async def _did(self, call: Any) -> bool:
        try:
            await answer(call, PURPOSE)
        except policy.StoreUnavailable:
            return False
        return True

    def _mark(self, name: str, ticket: Ticket) -> bytes:
        return self._record(name, ticket, b"running", b"")

    def _record(self, name: str, ticket: Ticket, state: bytes, reply: bytes) -> bytes:
        head = [state, ticket.fingerprint.encode("ascii"), ticket.holder.encode("ascii"), reply]
        return seal(self._secret, name, ticket.tenant, b"\n".join(head))

    def _name(self, ticket: Ticket) -> str:
        return f"{self._tenant_name(ticket.tenant)}:{self._digest([ticket.tenant, ticket.key])}"

    def _tenant_name(self, tenant: str) -> str:
        # In braces: a tenant's records lie together in a cluster, where one script writes two of them.
        return f"{self._prefix}{{{self._digest(tenant)[:32]}}}"

    def _digest(self, of: Any) -> str:
        # Keyed: the store's reader learns neither tenants nor their keys.
        return hmac.new(self._secret, b"once\0" + json.dumps(of).encode(), hashlib.sha256).hexdigest()


def _told(kept_fingerprint: str, done: bool, reply: bytes | None, fingerprint: str) -> bytes | None:
    if kept_fingerprint != fingerprint:
        raise IdempotencyReused("Use another Idempotency-Key: this one was sent with another body.")
    if not done:
        message = "The request with this Idempotency-Key is still running; ask again in a moment."
        raise IdempotencyInFlight(message, retry_after_s=1.0)
    if reply is None:
        message = (
            "Use another Idempotency-Key: this one was answered, and the reply was too large to be kept."
        )
        raise IdempotencyReused(message)
    return reply


async def beat(store: IdempotencyStore, ticket: Ticket, every_s: float = HEARTBEAT_S) -> None:
    """Renew the ticket for as long as this task runs."""
    while True:
        await asyncio.sleep(every_s)
        await store.renew(ticket)
