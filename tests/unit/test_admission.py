"""The rate limits as a request meets them: counted when it comes, corrected when it ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from policies.keys import hash_key
from policies.memory_limits import MemoryLimits
from router import errors as told
from router.request import Caller
from tests.service import ACME, HARD, KEY, POLICY, TestService, request, start_service
from tests.tasks import says, until

LIMITS = POLICY.replace(
    "    default_effort: high",
    "    limits: {requests_per_minute: 100, tokens_per_minute: 1000, concurrency: 3}\n"
    "    default_effort: high",
).replace(
    f"{{id: k1, sha256: {hash_key(KEY)}}}",
    f"{{id: k1, sha256: {hash_key(KEY)}, limits: {{requests_per_minute: 10, concurrency: 2}}}}",
)
OTHER_KEY = Caller("acme", "k9")


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


async def service_with(policy: str = LIMITS, **parts: Any) -> tuple[TestService, Clock]:
    clock = Clock()
    return await start_service(policy=policy, limits=MemoryLimits(clock), **parts), clock


async def tokens_left(service: TestService) -> int:
    """What the tenant has left this minute, asked with a request of no tokens by nobody."""
    scopes = service.policy.tenants["acme"].limit_scopes("nobody")
    usage = await service.limits.admit("acme", scopes, slot_id="looking", tokens=0, least_tokens=0, ttl_s=1)
    await service.limits.leave("acme", scopes, "looking", tokens=0)
    assert usage.remaining_tokens is not None
    return usage.remaining_tokens


async def test_tokens_a_minute_are_what_was_charged() -> None:
    service, _ = await service_with()
    reply = await service.pipeline.complete(ACME, request())
    estimate = 1000 - (reply.limits.remaining_tokens or 0)
    assert estimate > 64 + 48  # the prompt, and the completion that the caller allows
    await until(lambda: not service.limits._admissions)
    assert await tokens_left(service) == 1000 - reply.receipt.charged_tokens
    assert reply.receipt.charged_tokens != estimate


async def test_many_samples_count_each() -> None:
    service, _ = await service_with(p=HARD)
    reply = await service.pipeline.complete(ACME, request())
    await until(lambda: not service.limits._admissions)
    assert reply.receipt.samples_used > 1
    assert await tokens_left(service) == 1000 - reply.receipt.charged_tokens


async def test_a_cached_answer_and_a_refused_request_cost_no_tokens() -> None:
    service, _ = await service_with()
    await service.pipeline.complete(ACME, request(temperature=0))
    await until(lambda: not service.limits._admissions)
    left = await tokens_left(service)
    assert (await service.pipeline.complete(ACME, request(temperature=0))).receipt.cache == "hit"
    with pytest.raises(told.ModelNotFound):
        await service.pipeline.complete(ACME, request(model="nothing"))
    await until(lambda: not service.limits._admissions)
    assert await tokens_left(service) == left


async def test_who_leaves_in_the_middle_pays_the_estimate() -> None:
    engine = says(" word" * 1000, delay_s=0.002)
    service, _ = await service_with(engine=engine)
    work = asyncio.create_task(service.pipeline.complete(ACME, request(max_completion_tokens=400)))
    await until(lambda: engine.calls and engine.calls[0].completion_tokens > 5)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    await until(lambda: not service.limits._admissions)
    assert await tokens_left(service) < 1000 - 400


async def test_the_tighter_of_tenant_and_key_is_told_and_refuses() -> None:
    service, clock = await service_with()
    first = await service.pipeline.complete(ACME, request())
    assert (first.limits.limit_requests, first.limits.remaining_requests) == (10, 9)
    assert first.limits.limit_tokens == 1000
    for _ in range(9):
        clock.now_s += 0.1  # tokens come back, requests hardly do
        await service.pipeline.complete(ACME, request(max_completion_tokens=16))
    with pytest.raises(told.RateLimited) as caught:
        await service.pipeline.complete(ACME, request(max_completion_tokens=16))
    assert caught.value.retry_after_s == pytest.approx(6.0 - 0.9, abs=0.01)
    assert "of this key" in caught.value.message
    assert (await service.pipeline.complete(OTHER_KEY, request(max_completion_tokens=16))).choices


async def test_slots_are_the_keys_and_the_tenants() -> None:
    engine = says(" word" * 4000, delay_s=0.002)
    service, _ = await service_with(engine=engine)
    short = request(max_completion_tokens=100, temperature=0.5)
    works = [asyncio.create_task(service.pipeline.complete(ACME, short)) for _ in range(2)]
    await until(lambda: len(engine.calls) == 2)
    with pytest.raises(told.RateLimited, match="concurrency limit of this key"):
        await service.pipeline.complete(ACME, short)
    works.append(asyncio.create_task(service.pipeline.complete(OTHER_KEY, short)))
    await until(lambda: len(engine.calls) == 3)
    with pytest.raises(told.RateLimited, match="concurrency limit is reached"):
        await service.pipeline.complete(OTHER_KEY, short)
    await asyncio.gather(*works)
    await until(lambda: not service.limits._admissions)
    assert not any(service.limits._slots.values())


async def test_a_key_revoked_in_mid_flight_gives_its_slots_back() -> None:
    """The policy that a request came in under is the one that it leaves under."""
    engine = says(" word" * 1000, delay_s=0.002)
    service, _ = await service_with(engine=engine)
    work = asyncio.create_task(service.pipeline.complete(ACME, request()))
    await until(lambda: engine.calls)
    assert service.limits._slots[("acme", "key:k1")]
    object.__setattr__(service.policy.document.tenants["acme"], "keys", ())
    await work
    await until(lambda: not service.limits._admissions)
    assert not any(service.limits._slots.values())


async def test_what_can_never_fit_is_not_worth_asking_again() -> None:
    service, _ = await service_with()
    with pytest.raises(told.RequestExceedsBudget) as caught:
        await service.pipeline.complete(ACME, request("word " * 2000))
    assert (caught.value.status, caught.value.retryable, caught.value.retry_after_s) == (429, False, None)
    assert caught.value.limits is not None


async def test_a_slot_lives_as_long_as_its_request_may() -> None:
    seen: list[float] = []

    class Watched(MemoryLimits):
        async def admit(self, *args: Any, ttl_s: float, **more: Any) -> Any:
            seen.append(ttl_s)
            return await super().admit(*args, ttl_s=ttl_s, **more)

    service = await start_service(policy=LIMITS, limits=Watched())
    await service.pipeline.complete(ACME, request(deadline_s=5))
    await service.pipeline.complete(ACME, request())
    assert seen == [35.0, 90.0]
