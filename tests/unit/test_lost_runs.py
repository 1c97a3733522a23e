"""A tier that dies in the middle of a run: what it had told the ledger is charged, and only that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Literal

import pytest

import router.lease
from backends.task import TextDelta, TierEvent, TierResult, TierTask
from policies.amounts import Amount
from policies.errors import StoreUnavailable
from policies.memory_ledger import InMemoryLedger
from router import errors as told
from router.errors import Overloaded, TierUnavailable
from router.owed import Owed
from router.tiers import InProcessTiers
from tests.service import ACME, HARD, POLICY, TestService, request, start_service
from tests.tasks import says, until
from tests.unit.test_pipeline import settled

TOLD = 33
TTL_S = 30.0
FREE = POLICY.replace("quality_target: 0.8", "quality_target: 0.8\n    cost_weight: 0.0")
LADDER = {"direct/direct": 0.85, "consistency/sc8": 0.99, "search/beam": 0.99}

End = Literal["dies", "shuts down", "hangs", "breaks", "is full"]


class Dying:
    """Tiers of which some tell the ledger of `told` tokens and are then no more."""

    def __init__(self, ledger: InMemoryLedger, ends: dict[str, End], told: int = TOLD) -> None:
        self._ledger = ledger
        self._ends = ends
        self._told = told
        self.inner = InProcessTiers({})
        self.lost: list[str] = []

    @property
    def names(self) -> tuple[str, ...]:
        return self.inner.names

    async def run(self, tier: str, task: TierTask) -> TierResult:
        if tier in self._ends:
            await self._end(tier, task)
        return await self.inner.run(tier, task)

    async def stream(self, tier: str, task: TierTask) -> AsyncGenerator[TierEvent, None]:
        if tier in self._ends:
            yield TextDelta("one two")
            await self._end(tier, task)
        async for event in self.inner.stream(tier, task):
            yield event

    async def healthy(self, tier: str) -> bool:
        return tier not in self._ends

    async def _end(self, tier: str, task: TierTask) -> None:
        end = self._ends[tier]
        used = Amount(task.spent_before.tokens + self._told)
        if end == "is full":
            raise Overloaded("no room")
        await self._ledger.checkpoint(task.lease_id, used, TTL_S)
        self.lost.append(tier)
        if end == "shuts down":
            await self._ledger.settle(task.lease_id, used + Amount(1), exact=True)
        if end == "breaks":
            raise RuntimeError("a bug")
        if end == "hangs":
            await asyncio.Event().wait()
        raise TierUnavailable("gone")


async def service_with(
    ends: dict[str, End], ledger: InMemoryLedger | None = None, told: int = TOLD, **fields: object
) -> tuple[TestService, Dying]:
    ledger = ledger or InMemoryLedger()
    tiers = Dying(ledger, ends, told)
    service = await start_service(says("Answer: 7"), policy=FREE, ledger=ledger, tiers=tiers, **fields)  # type: ignore[arg-type]
    tiers.inner = InProcessTiers(service.runners)
    return service, tiers


async def test_the_next_rung_answers_and_both_are_charged() -> None:
    service, _ = await service_with({"direct": "dies"}, p=LADDER)
    receipt = (await service.pipeline.complete(ACME, request())).receipt
    assert receipt.arms_tried == ("consistency/sc8",)
    assert receipt.charged_tokens == receipt.spend.total + TOLD == await settled(service)
    assert any(f"at least {TOLD} tokens" in reason for reason in receipt.reasons)


async def test_a_caller_who_gets_nothing_is_charged_what_every_tier_told() -> None:
    service, tiers = await service_with(dict.fromkeys(("direct", "consistency", "search"), "dies"), p=LADDER)
    with pytest.raises(told.TierUnavailable):
        await service.pipeline.complete(ACME, request(effort="max"))
    assert len(tiers.lost) > 1
    assert await settled(service) == TOLD * len(tiers.lost)


async def test_a_stream_that_breaks_off_is_charged() -> None:
    service, tiers = await service_with({"direct": "dies"}, p=LADDER)
    stream = await service.pipeline.stream(ACME, request())

    async def read() -> None:
        async for _ in stream.events:
            pass

    with pytest.raises(told.TierUnavailable):
        await read()
    assert tiers.lost == ["direct"]
    assert await settled(service) == TOLD


async def test_leaving_a_tier_that_is_gone_already_is_charged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router.lease, "ABANDONED_AFTER_S", 0.0)
    service, tiers = await service_with({"direct": "hangs"}, p=LADDER)
    work = asyncio.create_task(service.pipeline.complete(ACME, request()))
    await until(lambda: bool(tiers.lost))
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert await settled(service) == TOLD


async def test_an_error_that_nobody_expects_is_charged() -> None:
    service, _ = await service_with({"direct": "breaks"}, p=LADDER)
    with pytest.raises(RuntimeError):
        await service.pipeline.complete(ACME, request())
    assert await settled(service) == TOLD


async def test_a_tier_that_shuts_down_in_order_settles_for_good() -> None:
    """Nothing may run on under a lease that is closed: it would not be charged."""
    service, tiers = await service_with({"direct": "shuts down"}, p=LADDER)
    with pytest.raises(told.TierUnavailable):
        await service.pipeline.complete(ACME, request())
    assert tiers.lost == ["direct"]
    assert not service.engine.calls
    assert await settled(service) == TOLD + 1


async def test_a_full_queue_loses_nothing() -> None:
    service, _ = await service_with({"direct": "is full"}, p=LADDER)
    receipt = (await service.pipeline.complete(ACME, request())).receipt
    assert receipt.charged_tokens == receipt.spend.total == await settled(service)


async def test_the_settlement_knows_where_the_router_could_not_ask() -> None:
    class Deaf(InMemoryLedger):
        """Does not answer the router, who has nothing new to tell."""

        async def checkpoint(self, lease_id: str, used: Amount, ttl_s: float) -> Amount | None:
            if not used:
                raise StoreUnavailable("gone for a moment")
            return await super().checkpoint(lease_id, used, ttl_s)

    service, _ = await service_with({"direct": "dies"}, Deaf(), told=9_000, p=LADDER)
    await service.pipeline.complete(ACME, request())
    assert await settled(service) == 9_000


async def test_a_vote_that_ends_by_itself_is_charged_exactly() -> None:
    service, _ = await service_with({"direct": "dies"}, p=HARD)
    receipt = (await service.pipeline.complete(ACME, request())).receipt
    assert receipt.tier == "consistency"
    assert receipt.charged_tokens == receipt.spend.total == await settled(service)


async def test_owed_is_exact_again_once_the_lost_are_found() -> None:
    class Lease:
        async def known(self, used: Amount) -> Amount | None:
            return used + Amount(5)

    owed = Owed()
    assert owed.exact
    owed.start()
    assert not owed.exact
    owed.lose()
    assert not owed.exact
    assert await owed.find_lost(Lease()) == 5
    assert (owed.tokens, owed.exact, owed.spend.total) == (5, True, 0)
