"""The rules of the rate limits, for every implementation of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policies.errors import LimitExceeded
from policies.limit_spec import Limits
from policies.limits import LimitUsage
from policies.store import connect
from router.request import LimitState
from tests.clocked_limits import Gate

Gates = Callable[..., Gate]


@pytest.fixture(params=["memory", "valkey"])
async def gate_of(request: pytest.FixtureRequest) -> AsyncIterator[Gates]:
    if request.param == "memory":
        yield lambda *limits: Gate(None, limits)
        return
    client = connect(request.getfixturevalue("valkey_url"), command_timeout_s=10.0, pool_timeout_s=30.0)
    yield lambda *limits: Gate(client, limits)
    await client.aclose()


def rpm(limit: int) -> Limits:
    return Limits(requests_per_minute=limit)


def tpm(limit: int) -> Limits:
    return Limits(tokens_per_minute=limit)


# -- rates


@pytest.mark.parametrize("limits", [rpm(5), tpm(50), Limits(concurrency=5)])
async def test_100_tasks_on_a_limit_of_5_admit_exactly_5(gate_of: Gates, limits: Limits) -> None:
    for scopes in ((limits,), (Limits(), limits), (limits, rpm(1000))):
        gate = gate_of(*scopes)
        results = await asyncio.gather(*(gate.admit(10) for _ in range(100)), return_exceptions=True)
        assert sum(isinstance(result, LimitUsage) for result in results) == 5
        assert all(isinstance(result, LimitUsage | LimitExceeded) for result in results)


@pytest.mark.parametrize("limit", [1, 3, 7, 59, 60, 61, 1000])
async def test_a_whole_minutes_requests_at_once_and_not_one_more(gate_of: Gates, limit: int) -> None:
    gate = gate_of(rpm(limit))
    left = [(await gate.admit()).remaining_requests for _ in range(limit)]
    assert left == list(range(limit))[::-1]
    assert (await gate.refused()).kind == "requests"


async def test_the_wait_is_exact(gate_of: Gates) -> None:
    gate = gate_of(rpm(3))
    for _ in range(3):
        await gate.admit()
    await gate.later(7.5)
    refused = await gate.refused()
    assert refused.retry_after_s == pytest.approx(12.5, abs=2e-6)
    await gate.later(12.499)
    assert (await gate.refused()).retry_after_s == pytest.approx(0.001, abs=2e-6)
    await gate.later(0.001)
    await gate.admit()
    assert (await gate.refused()).retry_after_s == pytest.approx(20.0, abs=2e-6)


async def test_an_evenly_paced_caller_is_never_refused(gate_of: Gates) -> None:
    gate = gate_of(rpm(7))
    for _ in range(7):
        await gate.admit()
    for _ in range(50):
        await gate.later(60 / 7)
        await gate.admit()
        assert (await gate.refused()).kind == "requests"


async def test_a_clock_that_steps_back_lets_nobody_in_twice(gate_of: Gates) -> None:
    gate = gate_of(rpm(2))
    await gate.admit()
    await gate.later(-30)
    assert (await gate.admit()).remaining_requests == 0
    assert (await gate.refused()).retry_after_s == pytest.approx(30.0, abs=2e-6)


async def test_the_longest_wait_is_told(gate_of: Gates) -> None:
    gate = gate_of(Limits(requests_per_minute=60, tokens_per_minute=60, concurrency=1))
    await gate.admit(60)
    refused = await gate.refused(30)
    assert (refused.kind, refused.retry_after_s) == ("tokens", pytest.approx(30.0, abs=1e-5))
    refused = await gate.refused(0)
    assert (refused.kind, refused.retry_after_s) == ("concurrency", 1.0)


async def test_a_refusal_counts_against_nothing(gate_of: Gates) -> None:
    gate = gate_of(
        Limits(requests_per_minute=10, tokens_per_minute=100, concurrency=10),
        Limits(requests_per_minute=5, tokens_per_minute=1000, concurrency=5),
    )
    before = await gate.admit(60)
    for _ in range(5):
        refused = await gate.refused(50)
        assert refused.usage == before
    usage = await gate.admit(40)
    assert (usage.remaining_requests, usage.remaining_tokens) == (3, 0)


# -- tokens


async def test_tokens_are_counted_as_estimated(gate_of: Gates) -> None:
    gate = gate_of(tpm(6000))
    usage = await gate.admit(4500)
    assert (usage.limit_tokens, usage.remaining_tokens) == (6000, 1500)
    assert usage.reset_tokens_s == pytest.approx(45.0, abs=1e-5)
    refused = await gate.refused(2000)
    assert (refused.kind, refused.retry_after_s) == ("tokens", pytest.approx(5.0, abs=1e-5))
    assert (await gate.admit(1500)).remaining_tokens == 0
    await gate.later(60)
    assert (await gate.admit(0)).remaining_tokens == 6000


async def test_what_must_fit_and_is_above_the_limit_need_not_wait(gate_of: Gates) -> None:
    gate = gate_of(Limits(requests_per_minute=1, tokens_per_minute=100))
    await gate.admit(1)
    refused = await gate.refused(101)
    assert (refused.kind, refused.retry_after_s) == ("tokens", None)
    assert "make it smaller" in str(refused)


async def test_an_estimate_counts_up_to_the_limit(gate_of: Gates) -> None:
    gate = gate_of(tpm(100), tpm(50))
    assert (await gate.admit(1000, "a", least=20)).remaining_tokens == 0
    await gate.leave("a", 30)
    assert (await gate.admit(0)).remaining_tokens == 20  # of the key's 50
    with pytest.raises(LimitExceeded) as caught:
        await gate.admit(1000, least=51)
    assert (caught.value.scope, caught.value.retry_after_s) == ("key:k1", None)


@pytest.mark.parametrize(("charged", "left"), [(0, 1000), (400, 600), (600, 400), (1000, 0), (None, 400)])
async def test_the_end_counts_what_was_charged(gate_of: Gates, charged: int | None, left: int) -> None:
    gate = gate_of(tpm(1000))
    assert (await gate.admit(600, "a")).remaining_tokens == 400
    await gate.leave("a", charged)
    assert (await gate.admit(0)).remaining_tokens == left


async def test_what_was_charged_beyond_the_estimate_is_owed(gate_of: Gates) -> None:
    gate = gate_of(tpm(600))
    await gate.admit(10, "a")
    await gate.leave("a", 3000)
    refused = await gate.refused(10)
    assert refused.retry_after_s == pytest.approx(241.0, abs=1e-4)
    assert refused.usage is not None
    assert refused.usage.remaining_tokens == 0
    assert refused.usage.reset_tokens_s == pytest.approx(300.0, abs=1e-4)
    await gate.later(241)
    await gate.admit(10, "b")
    assert (await gate.refused(1)).retry_after_s == pytest.approx(0.1, abs=1e-4)


async def test_an_hours_worth_is_owed_at_most(gate_of: Gates) -> None:
    gate = gate_of(tpm(1))
    await gate.admit(1, "a")
    await gate.leave("a", 2**53 - 1)
    assert (await gate.refused(1)).retry_after_s == pytest.approx(3600.0, abs=1e-3)


async def test_an_end_counts_once(gate_of: Gates) -> None:
    gate = gate_of(tpm(1000), rpm(10))
    await gate.admit(600, "a")
    for _ in range(3):
        await gate.leave("a", 100)
    assert (await gate.admit(0)).remaining_tokens == 900


async def test_a_refund_gives_no_more_than_the_limit(gate_of: Gates) -> None:
    gate = gate_of(tpm(600))
    await gate.admit(600, "a", ttl_s=90)
    await gate.later(59)
    await gate.leave("a", 0)
    usage = await gate.admit(0)
    assert (usage.remaining_tokens, usage.reset_tokens_s) == (600, 0.0)
    assert (await gate.refused(601)).retry_after_s is None


async def test_a_repeat_counts_once(gate_of: Gates) -> None:
    gate = gate_of(Limits(requests_per_minute=10, tokens_per_minute=100, concurrency=1))
    first = await gate.admit(60, "a")
    assert await gate.admit(60, "a") == first


async def test_an_end_before_its_admission_leaves_nothing_to_take(gate_of: Gates) -> None:
    """An admission that timed out may run after the request has ended."""
    gate = gate_of(Limits(requests_per_minute=10, tokens_per_minute=100, concurrency=1))
    await gate.leave("late", 0)
    await gate.admit(60, "late")
    usage = await gate.admit(60, "next")
    assert (usage.remaining_requests, usage.remaining_tokens) == (9, 40)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.integers(0, 90), st.integers(0, 400), st.one_of(st.none(), st.integers(0, 800))),
        min_size=1,
        max_size=15,
    )
)
def test_no_hour_counts_more_than_its_minutes_and_a_burst(steps: list[tuple[int, int, int | None]]) -> None:
    """Whatever comes when: what is admitted never exceeds limit x time + one limit; nothing is negative."""

    async def run() -> None:
        gate = Gate(None, (tpm(300),))
        admitted, start = 0, gate.now_us
        for number, (pause_s, tokens, charged) in enumerate(steps):
            await gate.later(pause_s)
            try:
                usage = await gate.admit(tokens, f"s{number}")
            except LimitExceeded:
                continue
            assert usage.remaining_tokens is not None
            assert 0 <= usage.remaining_tokens <= 300
            admitted += tokens
            if charged is not None and charged >= tokens:  # never a refund in this one
                await gate.leave(f"s{number}", charged)
            assert admitted <= 300 + 300 * (gate.now_us - start) / 60e6 + 1

    asyncio.run(run())


# -- two scopes, slots


async def test_the_tighter_of_tenant_and_key_is_told(gate_of: Gates) -> None:
    gate = gate_of(
        Limits(requests_per_minute=100, tokens_per_minute=500),
        Limits(requests_per_minute=10, tokens_per_minute=900),
    )
    usage = await gate.admit(100)
    assert (usage.limit_requests, usage.remaining_requests) == (10, 9)
    assert (usage.limit_tokens, usage.remaining_tokens) == (500, 400)
    assert usage.reset_requests_s == pytest.approx(6.0, abs=1e-5)
    assert usage.reset_tokens_s == pytest.approx(12.0, abs=1e-5)


async def test_a_keys_refusal_names_it(gate_of: Gates) -> None:
    gate = gate_of(Limits(requests_per_minute=100, concurrency=5), Limits(concurrency=1))
    await gate.admit(slot="a")
    refused = await gate.refused()
    assert (refused.kind, refused.scope) == ("concurrency", "key:k1")
    assert "of this key" in str(refused)
    await gate.leave("a")
    await gate.admit(slot="b")


async def test_keys_share_their_tenants_limit(gate_of: Gates) -> None:
    gate = gate_of(rpm(3), rpm(2))
    for _ in range(2):
        await gate.admit()
    assert (await gate.refused()).scope == "key:k1"
    other = [("tenant", rpm(3)), ("key:k2", rpm(2))]
    usage = await gate.store.admit(gate.tenant, other, slot_id="o", tokens=0, least_tokens=0, ttl_s=30)
    assert usage.remaining_requests == 0
    with pytest.raises(LimitExceeded) as caught:
        await gate.store.admit(gate.tenant, other, slot_id="p", tokens=0, least_tokens=0, ttl_s=30)
    assert caught.value.scope == "tenant"


async def test_slots_are_freed_and_free_themselves(gate_of: Gates) -> None:
    gate = gate_of(Limits(concurrency=2))
    await gate.admit(slot="a", ttl_s=10)
    await gate.admit(slot="b", ttl_s=20)
    await gate.admit(slot="b", ttl_s=20)  # a repeat keeps its slot
    assert (await gate.refused()).kind == "concurrency"
    await gate.leave("b")
    await gate.leave("b")
    await gate.admit(slot="c", ttl_s=20)
    assert (await gate.refused()).kind == "concurrency"
    await gate.later(10)
    await gate.admit(slot="d")  # a's time is over
    assert (await gate.refused()).kind == "concurrency"


async def test_tenants_do_not_share_limits(gate_of: Gates) -> None:
    first, second = (gate_of(rpm(1)) for _ in range(2))
    await first.admit()
    await second.admit()
    assert (await first.refused()).kind == "requests"


async def test_headers_say_all_of_it(gate_of: Gates) -> None:
    gate = gate_of(Limits(requests_per_minute=60, tokens_per_minute=600))
    usage = await gate.admit(60)
    assert (usage.limit_requests, usage.remaining_requests) == (60, 59)
    assert usage.reset_requests_s == pytest.approx(1.0, abs=1e-5)
    assert usage.remaining_tokens == 540
    assert usage.reset_tokens_s == pytest.approx(6.0, abs=1e-5)
    assert set(LimitUsage.__slots__) == set(LimitState.__slots__)
    assert await gate_of(Limits(concurrency=3)).admit() == LimitUsage()
    assert await gate_of(Limits()).admit() == LimitUsage()


@pytest.mark.parametrize("tokens", [-1, 1.5, True, 2**53])
async def test_estimates_are_whole_numbers(gate_of: Gates, tokens: Any) -> None:
    gate = gate_of(tpm(5))
    with pytest.raises(ValueError, match="whole number"):
        await gate.admit(tokens)
    with pytest.raises(ValueError, match="whole number"):
        await gate.leave("a", tokens)
