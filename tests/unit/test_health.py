from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from backends.errors import BudgetTooSmall, ContextOverflow, EngineUnavailable
from backends.task import TextDelta
from policies.conditions import TierState
from router.errors import Overloaded, TierUnavailable
from router.health import LONGEST_PAUSE_S, PROBE_S, REMEMBERED_S, HealthBoard, WatchedTiers
from tests.service import ACME, EASY, request, start_service


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def board_of(**capacities: int) -> tuple[HealthBoard, Clock]:
    clock = Clock()
    return HealthBoard(capacities, clock), clock


def state(board: HealthBoard, *, probing: bool = True) -> TierState:
    return board.states(["search"], probing=probing)["search"]


def fail(board: HealthBoard, times: int = 1) -> None:
    for _ in range(times):
        board.begin("search")
        board.failed("search")


def answer(board: HealthBoard, run_s: float = 2.0, tokens: int = 100) -> None:
    board.begin("search")
    board.answered("search", run_s=run_s, tokens=tokens)


def test_one_failure_is_no_illness_two_in_a_row_are() -> None:
    board, _ = board_of()
    fail(board)
    assert state(board) == TierState()
    answer(board)
    fail(board)
    assert not state(board).skipped
    fail(board)
    assert state(board).skipped == "failed 2 times in a row; it is tried again in 1.0 s"


def test_one_request_tries_again_and_the_others_wait_for_it() -> None:
    board, clock = board_of()
    fail(board, 2)
    clock.now_s += 1.0
    assert not state(board, probing=False).skipped  # only looking takes no turn
    assert not state(board).skipped
    assert "another request is trying it again" in state(board).skipped
    answer(board)
    assert not state(board).skipped


def test_a_turn_that_nobody_used_comes_again() -> None:
    board, clock = board_of()
    fail(board, 2)
    clock.now_s += 1.0
    assert not state(board).skipped
    clock.now_s += PROBE_S
    assert not state(board).skipped


def test_pauses_grow_to_a_limit_and_a_success_ends_them() -> None:
    board, clock = board_of()
    fail(board, 2)
    pauses = []
    for _ in range(8):
        pause = float(state(board).skipped.split("again in ")[1].split(" s")[0])
        pauses.append(pause)
        clock.now_s += pause
        fail(board)
    assert pauses[:6] == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0]
    assert max(pauses) == LONGEST_PAUSE_S
    answer(board)
    fail(board, 2)
    assert "again in 1.0 s" in state(board).skipped


def test_requests_that_fail_together_are_one_pause() -> None:
    board, _ = board_of()
    for _ in range(50):
        board.begin("search")
    for _ in range(50):
        board.failed("search")
    assert "tried again in 1.0 s" in state(board).skipped


def test_an_overloaded_tier_is_skipped_at_once_for_as_long_as_it_says() -> None:
    board, _ = board_of()
    board.begin("search")
    board.overloaded("search", 3.0)
    assert state(board).skipped == "is overloaded; it is tried again in 3.0 s"


def test_one_line_a_change(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "router.health")
    board, clock = board_of()
    fail(board, 5)
    clock.now_s += 1.0
    state(board)
    answer(board)
    answer(board)
    assert [record.message for record in caplog.records] == [
        "the tier search failed 2 times in a row and is skipped for a while",
        "the tier search answers again",
    ]


def test_speed_is_believed_after_three_runs_and_forgotten_after_a_minute() -> None:
    board, clock = board_of()
    answer(board)
    answer(board)
    assert state(board).seconds_per_token is None
    answer(board)
    assert state(board).seconds_per_token == pytest.approx(0.02)
    for _ in range(50):
        answer(board, run_s=10.0)
    assert state(board).seconds_per_token == pytest.approx(0.1, rel=0.01)
    clock.now_s += REMEMBERED_S + 1
    assert state(board).seconds_per_token is None  # or a tier that was slow once would never be tried again
    answer(board, run_s=1.0)
    assert state(board).seconds_per_token is None


def test_a_queue_is_what_is_in_flight_beyond_the_capacity() -> None:
    board, _ = board_of(search=4)
    for _ in range(3):
        answer(board, run_s=2.0)
    for _ in range(4):
        board.begin("search")
    assert state(board).queue_s == 0.0
    for _ in range(6):
        board.begin("search")
    assert state(board).queue_s == pytest.approx(6 / 4 * 2.0)
    for _ in range(10):
        board.left("search")
    assert state(board).queue_s == 0.0


# -- what becomes of calls


class ScriptedTiers:
    names = ("search",)

    def __init__(self, *ends: Any) -> None:
        self.ends = list(ends)

    async def healthy(self, tier: str) -> bool:
        return True

    async def run(self, tier: str, task: Any) -> Any:
        end = self.ends.pop(0)
        if isinstance(end, BaseException):
            raise end
        await asyncio.sleep(0)
        return end

    async def stream(self, tier: str, task: Any) -> AsyncGenerator[Any, None]:
        yield TextDelta("x")
        yield await self.run(tier, task)


UNAVAILABLE = TierUnavailable("gone")


@pytest.mark.parametrize(
    ("error", "skipped"),
    [
        (UNAVAILABLE, True),
        (EngineUnavailable("dead"), True),
        (Overloaded("full", retry_after_s=2.0), True),
        (ContextOverflow(10, 5), False),
        (BudgetTooSmall(10, 5), False),
        (asyncio.CancelledError(), False),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_only_faults_of_the_tier_count(error: BaseException, skipped: bool, streamed: bool) -> None:
    board, clock = board_of()
    tiers = WatchedTiers(ScriptedTiers(error, error), board, clock)  # type: ignore[arg-type]

    async def call() -> None:
        if not streamed:
            await tiers.run("search", None)  # type: ignore[arg-type]
        async for _ in tiers.stream("search", None):  # type: ignore[arg-type]
            pass

    for _ in range(2):
        with pytest.raises(type(error)):
            await call()
    assert bool(state(board).skipped) == skipped
    assert board._tiers["search"].in_flight == 0


async def test_a_stream_that_nobody_reads_to_its_end_leaves_nothing_in_flight() -> None:
    board, clock = board_of()
    stream = WatchedTiers(ScriptedTiers(UNAVAILABLE), board, clock).stream("search", None)  # type: ignore[arg-type]
    assert isinstance(await anext(stream), TextDelta)
    assert board._tiers["search"].in_flight == 1
    await stream.aclose()
    assert (board._tiers["search"].in_flight, state(board).skipped) == (0, "")


async def test_a_tier_that_is_gone_is_left_alone_and_tried_again() -> None:
    """In the service: two failures, then others answer; when its pause is over, one request tries it."""
    service = await start_service(p=EASY)
    board, clock = board_of()
    object.__setattr__(service.pipeline._parts, "board", board)
    inner = service.pipeline._parts.tiers._tiers
    object.__setattr__(service.pipeline._parts, "tiers", WatchedTiers(inner, board, clock))
    direct = inner._runners.pop("direct")
    names = type(inner).names
    type(inner).names = property(lambda self: ("direct", "consistency", "search"))  # type: ignore[assignment]
    try:
        for _ in range(2):  # the ladder's next rung answers
            reply = await service.pipeline.complete(ACME, request())
            assert "direct/direct did not answer (TierUnavailable)" in reply.receipt.reasons
        reply = await service.pipeline.complete(ACME, request())
        assert "direct/direct did not answer (TierUnavailable)" not in reply.receipt.reasons
        assert any("failed 2 times in a row" in reason for reason in reply.receipt.reasons)
        inner._runners["direct"] = direct
        clock.now_s += 1.0
        assert (await service.pipeline.complete(ACME, request())).receipt.tier == "direct"
        assert (await service.pipeline.complete(ACME, request())).receipt.tier == "direct"
    finally:
        type(inner).names = names  # type: ignore[method-assign]
