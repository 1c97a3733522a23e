from __future__ import annotations

import asyncio

import pytest

from router.flight import SingleFlight


class Work:
    """Counts its runs; each waits for `go` and then returns or raises what it is told."""

    def __init__(self, result: object = "answer") -> None:
        self.runs = 0
        self.running = 0
        self.most_running = 0
        self.go = asyncio.Event()
        self.results: list[object] = [result]

    async def __call__(self) -> str:
        self.runs += 1
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await self.go.wait()
        finally:
            self.running -= 1
        result = self.results.pop(0) if len(self.results) > 1 else self.results[0]
        if isinstance(result, Exception):
            raise result
        return str(result)


async def settle() -> None:
    """Let every task that can run come to its next wait."""
    for _ in range(20):
        await asyncio.sleep(0)


async def crowd(flights: SingleFlight[str], work: Work, n: int) -> list[asyncio.Task[tuple[str, bool]]]:
    tasks = [asyncio.create_task(flights.run("k", work)) for _ in range(n)]
    await settle()
    return tasks


async def test_identical_requests_share_one_run():
    flights, work = SingleFlight[str](), Work()
    tasks = await crowd(flights, work, 50)
    work.go.set()
    results = await asyncio.gather(*tasks)
    assert work.runs == 1
    assert results[0] == ("answer", True)
    assert set(results[1:]) == {("answer", False)}
    assert len(flights) == 0


async def test_other_keys_fly_alone_and_a_landed_key_starts_afresh():
    flights, work = SingleFlight[str](), Work()
    work.go.set()
    assert (await flights.run("a", work))[1]
    assert (await flights.run("b", work))[1]
    assert (await flights.run("a", work))[1]
    assert work.runs == 3


async def test_a_waiter_that_leaves_harms_nobody():
    flights, work = SingleFlight[str](), Work()
    tasks = await crowd(flights, work, 5)
    tasks[2].cancel()
    await settle()
    work.go.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[2], asyncio.CancelledError)
    assert [results[i] for i in (0, 1, 3, 4)] == [("answer", True)] + [("answer", False)] * 3
    assert work.runs == 1


async def test_a_cancelled_leader_promotes_exactly_one_waiter():
    flights, work = SingleFlight[str](), Work()
    tasks = await crowd(flights, work, 10)
    tasks[0].cancel()
    await settle()
    assert work.runs == 2
    assert work.running == 1
    work.go.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert sorted(results[1:]) == [("answer", False)] * 8 + [("answer", True)]
    assert work.most_running == 1
    assert len(flights) == 0


async def test_a_failing_leader_keeps_its_error_and_promotes_exactly_one_waiter():
    flights, work = SingleFlight[str](), Work()
    work.results = [ValueError("mine"), "answer"]
    tasks = await crowd(flights, work, 4)
    work.go.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[0], ValueError)
    assert results[1:] == [("answer", True), ("answer", False), ("answer", False)]
    assert work.runs == 2


async def test_when_all_fail_each_gets_its_own_error_and_the_flight_ends():
    flights, work = SingleFlight[str](), Work()
    work.results = [ValueError("all")]
    tasks = await crowd(flights, work, 3)
    work.go.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, ValueError) for result in results)
    assert work.runs == 3
    assert len(flights) == 0


async def test_a_waiter_promoted_in_the_moment_it_leaves_passes_the_turn_on():
    flights, work = SingleFlight[str](), Work()
    tasks = await crowd(flights, work, 3)
    # Both in one tick: the leader's end promotes task 1, which is cancelled before it can wake.
    tasks[0].cancel()
    tasks[1].cancel()
    await settle()
    assert work.running == 1
    work.go.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results[2] == ("answer", True)
    assert len(flights) == 0


async def test_promotion_raced_by_cancellation_after_the_promise_was_made():
    flights = SingleFlight[str]()
    leader = flights.join("k")
    await leader.__aenter__()

    async def sit() -> bool:
        async with flights.join("k") as seat:
            return seat.leads

    first, second = asyncio.create_task(sit()), asyncio.create_task(sit())
    await settle()
    await leader.__aexit__(None, None, None)  # promises the turn to `first`
    first.cancel()  # before it has woken
    results = await asyncio.gather(first, second, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1] is True
    assert len(flights) == 0


async def test_everybody_leaving_ends_the_flight():
    flights, work = SingleFlight[str](), Work()
    tasks = await crowd(flights, work, 6)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert len(flights) == 0
    assert work.running == 0


async def test_a_leader_that_lands_nothing_hands_over():
    flights = SingleFlight[str]()

    async def degraded() -> None:
        async with flights.join("k") as seat:
            assert seat.leads
            await asyncio.sleep(0)

    async def good() -> str:
        async with flights.join("k") as seat:
            if not seat.leads:
                return seat.value
            seat.land("good")
            return "led"

    results = await asyncio.gather(degraded(), good(), good())
    assert results == [None, "led", "good"]


async def test_waiters_have_the_value_as_soon_as_it_lands_not_when_the_leader_leaves():
    flights = SingleFlight[str]()
    async with flights.join("k") as seat:
        waiter = asyncio.create_task(flights.run("k", Work()))
        await settle()
        seat.land("early")
        assert await waiter == ("early", False)


async def test_a_seat_used_wrongly_says_so():
    flights = SingleFlight[str]()
    async with flights.join("k") as seat:
        with pytest.raises(RuntimeError, match="leads"):
            _ = seat.value
        seat.land("x")
        with pytest.raises(RuntimeError, match="leader"):
            seat.land("y")


async def test_random_comings_and_goings_never_run_two_at_once_nor_leave_a_key_behind():
    import random

    rng = random.Random(7)
    for _ in range(100):
        flights, work = SingleFlight[str](), Work()
        work.results = [ValueError("x"), "answer"]
        tasks = await crowd(flights, work, rng.randint(1, 8))
        for task in rng.sample(tasks, rng.randint(0, len(tasks))):
            task.cancel()
            if rng.random() < 0.5:
                await settle()
        work.go.set()
        await asyncio.wait(tasks, timeout=5)
        assert all(task.done() for task in tasks)
        assert work.most_running <= 1
        assert len(flights) == 0
        await asyncio.gather(*tasks, return_exceptions=True)
