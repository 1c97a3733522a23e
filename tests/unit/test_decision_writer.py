"""The queue before the log: nothing waits for it, trouble drops and counts, and the end is bounded."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

import pytest

from router.decisions.errors import LogUnavailable
from router.decisions.log import BEGINNING, MemoryDecisionLog
from router.decisions.record import Decision
from router.decisions.writer import DecisionWriter
from router.drift.gauges import MemoryGauges
from tests.decisions import plain
from tests.tasks import until

pytestmark = pytest.mark.unit


class Shaky(MemoryDecisionLog):
    """Away, or slow, while the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.batches: list[int] = []

    async def append(self, decisions: Sequence[Decision]) -> None:
        await self.gate.wait()
        if self.away:
            raise LogUnavailable("the store of the decision log did not answer")
        self.batches.append(len(decisions))
        await super().append(decisions)


def decisions(count: int, start: int = 0) -> list[Decision]:
    return [plain(decision_id=f"dec-{start + number}") for number in range(count)]


async def ids(log: MemoryDecisionLog) -> list[str]:
    return [each.decision.decision_id for each in await log.after(BEGINNING, 10_000) if each.decision]


async def test_decisions_are_written_in_batches_and_in_order() -> None:
    log = Shaky()
    writer = DecisionWriter(log, gather_s=0.01)
    for decision in decisions(100):
        writer.add(decision)
    assert log.batches == []  # nobody waited
    await until(lambda: writer.counts.written == 100)
    assert await ids(log) == [f"dec-{number}" for number in range(100)]
    assert max(log.batches) > 1
    writer.add(plain(decision_id="dec-later"))  # after it had nothing to do
    await until(lambda: writer.counts.written == 101)
    await writer.aclose()


async def test_trouble_is_told_once_and_what_waited_is_written_after_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = Shaky()
    log.away = True
    writer = DecisionWriter(log, gather_s=0.0, rest_s=0.01, max_waiting=50)
    for decision in decisions(30):
        writer.add(decision)
    with caplog.at_level(logging.WARNING):
        await asyncio.sleep(0.1)  # several tries
        for decision in decisions(40, start=30):
            writer.add(decision)
        assert writer.counts.dropped == 20
        log.away = False
        await until(lambda: writer.counts.written == 50)
    assert await ids(log) == [f"dec-{number}" for number in range(50)]
    assert [record.message.split(" (")[0] for record in caplog.records] == [
        "decisions cannot be logged now",
        "decisions are logged again; 20 were dropped meanwhile",
    ]
    await writer.aclose()


async def test_a_slow_store_drops_what_does_not_fit_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = Shaky()
    log.gate.clear()
    writer = DecisionWriter(log, gather_s=0.0, max_waiting=10)
    with caplog.at_level(logging.WARNING):
        began = time.perf_counter()
        for decision in decisions(1_000):
            writer.add(decision)
            await asyncio.sleep(0)
        assert time.perf_counter() - began < 5.0
        assert writer.counts.dropped == 990
        log.gate.set()
        await until(lambda: writer.counts.written == 10)
        await until(lambda: len(caplog.records) == 2)
    assert "990 were dropped" in caplog.records[1].message
    await writer.aclose()


async def test_the_end_writes_what_waits() -> None:
    log, gauges = Shaky(), MemoryGauges()
    writer = DecisionWriter(log, gather_s=60.0, gauges=gauges)
    for decision in decisions(100):
        writer.add(decision)
    await writer.aclose()
    assert len(await ids(log)) == 100
    writer.add(plain())
    assert (writer.counts.written, writer.counts.dropped) == (100, 1)
    assert gauges.counts == {"acr_decisions_logged_total": 100, "acr_decisions_dropped_total": 1}


async def test_the_end_is_bounded_while_the_store_hangs(caplog: pytest.LogCaptureFixture) -> None:
    log = Shaky()
    log.gate.clear()
    writer = DecisionWriter(log, gather_s=0.0)
    for decision in decisions(7):
        writer.add(decision)
    await asyncio.sleep(0)
    with caplog.at_level(logging.WARNING):
        await asyncio.wait_for(writer.aclose(within_s=0.05), 10)
    assert (writer.counts.written, writer.counts.dropped) == (0, 7)
    assert "7 decisions were not logged before the end" in caplog.text


async def test_the_end_does_not_wait_for_a_store_that_is_away() -> None:
    log = Shaky()
    log.away = True
    writer = DecisionWriter(log, gather_s=0.0, rest_s=600.0)
    writer.add(plain())
    await asyncio.sleep(0.02)
    await asyncio.wait_for(writer.aclose(within_s=600.0), 10)
    assert writer.counts.dropped == 1


async def test_an_end_without_a_beginning() -> None:
    await DecisionWriter(MemoryDecisionLog()).aclose()


async def test_what_json_has_no_word_for_is_dropped_and_holds_nothing_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = Shaky()
    writer = DecisionWriter(log, gather_s=0.0)
    first, second, third, fourth = decisions(4)
    bad = [plain(decision_id="dec-nan", ood=float("nan")), plain(ask={"strategy": object()})]
    for decision in (first, bad[0], second, third, bad[1], fourth):
        writer.add(decision)
    with caplog.at_level(logging.ERROR):
        await until(lambda: writer.counts.written == 4)
    assert writer.counts.dropped == 2
    assert await ids(log) == ["dec-0", "dec-1", "dec-2", "dec-3"]
    assert "dec-nan" in caplog.text
    await writer.aclose()
