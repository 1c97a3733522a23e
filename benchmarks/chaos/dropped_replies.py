"""Requests through a proxy that loses replies of the store after it has executed the command."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from contextlib import AsyncExitStack
from dataclasses import replace
from secrets import token_hex

from starlette.types import Message, Receive, Send

from benchmarks.chaos.replica import Replica, ask, caller, new_name, policy, settled
from benchmarks.chaos.report import Progress, Report
from benchmarks.chaos.servers import DURABLE, Start
from router.errors import IdempotencyInFlight, StoreUnavailable
from router.http.once import Once, ticket
from router.http.wire import Wire
from tests.fault_proxy import fault_proxy

CALLERS_A_REPLICA = 4
TRIES = 60


async def run(
    start: Start,
    progress: Progress,
    *,
    requests: int = 20_000,
    replicas: int = 24,
    rate: float = 0.05,
    seed: int = 1,
) -> Report:
    """Half of the requests carry an Idempotency-Key; all are tried again as an OpenAI client would."""
    report = Report(f"{requests} requests, {rate:.0%} of the store's replies lost after execution")
    server = start(*DURABLE)
    rules = policy(new_name())
    tenant = next(name for name in rules.tenants if name.endswith("deny"))
    numbers = iter(range(requests))
    clients = _Clients(tenant)
    async with fault_proxy(server.port, seed) as proxy, AsyncExitStack() as stack:
        proxy.mute_share = 0.2
        fleet = [await stack.enter_async_context(Replica(proxy.url, rules)) for _ in range(replicas)]
        keys = [Once(replica.idempotency) for replica in fleet]
        for replica, once in zip(fleet, keys, strict=True):
            replica.engine.calls = deque()  # all of them are counted
            stack.push_async_callback(once.aclose)
        await proxy.set("drop", rate=rate)

        async def ask_all(replica: Replica, once: Once, dice: random.Random) -> None:
            for number in numbers:
                await clients.ask(replica, once if number % 2 else None, number, dice)
                if number % 1000 == 999:
                    progress(f"{number + 1} of {requests}, {proxy.spoiled} replies lost")

        await asyncio.gather(
            *(
                ask_all(replica, keys[i], random.Random(f"{seed} {i} {j}"))
                for i, replica in enumerate(fleet)
                for j in range(CALLERS_A_REPLICA)
            )
        )
        await proxy.set("pass")
        used = await settled(server.url, rules, tenant, within_s=60.0)
        told, generated = clients.charged, sum(replica.generated() for replica in fleet)
    report.check(used == told, f"ledger {used} = receipts {told}")
    report.check(used == generated, f"ledger = tokens of the engines {generated}")
    report.check(clients.answered + clients.refused == requests, "every request ended")
    report.check(clients.refused <= requests // 1000, f"{clients.refused} requests given up")
    once_each = clients.runs == clients.answered
    report.check(once_each, f"{clients.runs} runs for {clients.answered} answers")
    report.figures.append(
        f"{proxy.spoiled} of {proxy.replies} replies lost; {clients.tries / requests:.2f} tries a request"
    )
    return report


class _Clients:
    """What all callers got, and what was run for them."""

    def __init__(self, tenant: str) -> None:
        self._who = caller(tenant)
        self.charged = self.runs = self.tries = self.answered = self.refused = 0

    async def ask(self, replica: Replica, once: Once | None, number: int, dice: random.Random) -> None:
        """One request, until it is answered or `TRIES` are over; with `once` under a key."""
        request = ask(f"What is {number} + 1?", model=dice.choice(("auto", "direct", "consistency")))

        async def respond(receive: Receive, send: Send) -> bool:
            reply = await replica.pipeline.complete(self._who, request)
            self.runs += 1
            self.charged += reply.receipt.charged_tokens
            await Wire(200, [], reply.choices[0].text.encode()).send(send)
            return True

        key = ticket(self._who, b"key-%d" % number, repr(request).encode())
        for attempt in range(TRIES):
            self.tries += 1
            try:
                if once is None:
                    await respond(_stays, _taken)
                else:
                    await once.answer(replace(key, holder=token_hex(16)), "chaos", respond, _stays, _taken)
                self.answered += 1
                return
            except (StoreUnavailable, IdempotencyInFlight):
                await asyncio.sleep(min(0.5, 0.02 * 2**attempt) * dice.uniform(0.5, 1.0))
        self.refused += 1


async def _stays() -> Message:
    """A client that does not leave."""
    return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]


async def _taken(message: Message) -> None:
    """A client that takes everything."""
