"""One suite over every place where decisions are logged."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable

import pytest

from policies.batches import Batches
from policies.store import connect
from router.decisions.log import BEGINNING, DecisionLog, Feedback, MemoryDecisionLog, order, scores
from router.decisions.reading import Reader
from router.decisions.record import Decision
from router.decisions.redis_log import RedisDecisionLog
from tests.decisions import full, plain

pytestmark = pytest.mark.contract

Make = Callable[..., DecisionLog]


@pytest.fixture(params=["memory", "redis"])
async def make(request: pytest.FixtureRequest, valkey_url: str) -> AsyncIterator[Make]:
    """Makes an empty log with these caps."""
    if request.param == "memory":
        yield MemoryDecisionLog
        return
    client = connect(valkey_url, decode_responses=False)

    def redis_log(max_entries: int = 10_000, max_feedback: int = 10_000) -> DecisionLog:
        prefix = f"test-{secrets.token_hex(6)}:{{log}}:"
        return RedisDecisionLog(
            Batches(client), max_entries=max_entries, max_feedback=max_feedback, prefix=prefix
        )

    yield redis_log
    await client.aclose()


async def everything(reader: Reader) -> list[Decision]:
    await reader.open()
    found: list[Decision] = []
    while (page := await reader.page()) is not None:
        found += page
    return found


async def test_an_empty_log(make: Make) -> None:
    log = make()
    assert (await log.after(BEGINNING), await log.last(5), await log.length()) == ([], [], 0)
    assert await log.feedback_after(BEGINNING) == []
    assert await everything(Reader(log)) == []


async def test_decisions_come_back_whole_and_in_order(make: Make) -> None:
    log = make()
    kept = [plain(), full(), plain(decision_id="dec-3")]
    await log.append(kept[:2])
    await log.append([])
    await log.append(kept[2:])
    found = await log.after(BEGINNING)
    assert [logged.decision for logged in found] == kept
    places = [order(logged.position) for logged in found]
    assert places == sorted(set(places))
    assert await log.length() == 3
    assert await log.after(found[0].position) == found[1:]
    assert await log.after(BEGINNING, 2) == found[:2]
    assert await log.after(found[-1].position) == []
    assert await log.last(2) == found[1:]


async def test_the_log_keeps_the_newest_up_to_its_cap(make: Make) -> None:
    log = make(max_entries=300)
    for start in range(0, 2_000, 50):
        await log.append([plain(decision_id=f"dec-{start + i}") for i in range(50)])
    assert 300 <= await log.length() <= 300 + 100  # whole blocks are dropped on a server
    (latest,) = await log.last(1)
    assert latest.decision is not None
    assert latest.decision.decision_id == "dec-1999"
    (first,) = await log.after(BEGINNING, 1)
    assert first.decision is not None
    assert int(first.decision.decision_id[4:]) >= 1_600


async def test_feedback_has_a_cap_of_its_own_and_pushes_no_decision_out(make: Make) -> None:
    log = make(max_entries=1_000, max_feedback=100)
    await log.append([plain()])
    for number in range(700):
        await log.append_feedback(Feedback(f"dec-{number}", "acme", 0.5))
    assert [logged.decision for logged in await log.after(BEGINNING)] == [plain()]
    assert 100 <= len(await log.feedback_after(BEGINNING, 1_000)) <= 200
    assert "dec-699" in await scores(log)


async def test_the_last_feedback_wins(make: Make) -> None:
    log = make()
    for score in (1.0, 0.0, 0.25):
        await log.append_feedback(Feedback("dec-1", "acme", score))
    await log.append_feedback(Feedback("dec-2", "other", 1.0))
    assert await scores(log) == {"dec-1": 0.25, "dec-2": 1.0}
    assert await scores(log, "acme") == {"dec-1": 0.25}
    await log.append([plain(), plain(decision_id="dec-9")])
    assert [each.score for each in await everything(Reader(log))] == [0.25, None]


async def test_more_feedback_than_a_page(make: Make) -> None:
    log = make()
    for number in range(450):
        await log.append_feedback(Feedback(f"dec-{number % 300}", "acme", number / 450))
    found = await scores(log)
    assert len(found) == 300
    assert found["dec-0"] == 300 / 450


async def test_a_reader_gives_each_decision_once_and_only_what_is_wanted(make: Make) -> None:
    log = make()
    at = 1_700_000_000_000
    kept = [
        plain(decision_id=f"dec-{i}", at_ms=at + i * 1_000, tenant="acme" if i % 2 else "other")
        for i in range(500)
    ]
    await log.append(kept)
    await log.append(kept[:10])  # a repeat after a timeout
    assert await everything(Reader(log)) == kept
    acme = await everything(Reader(log, tenant="acme", since_ms=at + 400_000))
    assert acme == [each for each in kept[400:] if each.tenant == "acme"]
    assert await everything(Reader(log, tenant="nobody")) == []


async def test_what_is_logged_while_reading_is_for_the_next_time(make: Make) -> None:
    log = make()
    await log.append([plain(decision_id=f"dec-{i}") for i in range(250)])
    reader = Reader(log)
    await reader.open()
    first = await reader.page()
    await log.append([plain(decision_id=f"late-{i}") for i in range(250)])
    rest: list[Decision] = []
    while (page := await reader.page()) is not None:
        rest += page
    assert len(first or []) + len(rest) == 250
    assert not any(each.decision_id.startswith("late") for each in rest)
    assert (reader.total, reader.seen, reader.unreadable) == (250, 250, 0)
