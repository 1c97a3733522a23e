"""The breaker: when it opens and closes, who asks the store meanwhile, and what is said."""

from __future__ import annotations

import asyncio
import logging

import pytest

from policies.breaker import Breaker, StoreResting, said
from tests.tasks import until


class Store:
    """Answers probes with `error`, None when it is well."""

    def __init__(self) -> None:
        self.error: Exception | None = ConnectionError()
        self.asked = 0
        self.at_once = 0
        self.most_at_once = 0

    async def probe(self) -> Exception | None:
        self.asked += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0.002)
        self.at_once -= 1
        return self.error


def breaker_of(store: Store) -> Breaker:
    return Breaker("the store", store.probe, probe_every_s=0.001)


def fail(breaker: Breaker, *errors: Exception) -> None:
    for error in errors:
        breaker.failed(error)


async def test_it_opens_after_three_failures_in_a_row() -> None:
    breaker = breaker_of(Store())
    fail(breaker, ConnectionError(), ConnectionError())
    breaker.succeeded()
    fail(breaker, ConnectionError(), ConnectionError())
    breaker.check()
    fail(breaker, ConnectionError())
    with pytest.raises(StoreResting):
        breaker.check()
    await breaker.aclose()


async def test_two_timeouts_are_enough() -> None:
    breaker = breaker_of(Store())
    fail(breaker, TimeoutError())
    breaker.check()
    fail(breaker, TimeoutError())
    assert breaker.open
    await breaker.aclose()
    assert not breaker.open


async def test_one_probe_at_a_time_closes_it_and_late_answers_do_not() -> None:
    store = Store()
    breaker = breaker_of(store)
    fail(breaker, *[ConnectionError()] * 50)
    await until(lambda: store.asked >= 3)
    breaker.succeeded()  # an answer that was on its way
    fail(breaker, *[ConnectionError()] * 50)
    assert breaker.open
    assert store.most_at_once == 1
    store.error = None
    await until(lambda: not breaker.open)
    breaker.check()
    asked = store.asked
    await asyncio.sleep(0.01)
    assert store.asked == asked


async def test_it_begins_anew_after_it_has_closed() -> None:
    store = Store()
    store.error = None
    breaker = breaker_of(store)
    for _ in range(2):
        fail(breaker, ConnectionError(), ConnectionError(), ConnectionError())
        assert breaker.open
        await until(lambda: not breaker.open)
    fail(breaker, ConnectionError(), ConnectionError())
    assert not breaker.open


async def test_one_line_when_it_opens_and_one_when_it_closes(caplog: pytest.LogCaptureFixture) -> None:
    store = Store()
    breaker = breaker_of(store)
    with caplog.at_level(logging.INFO, "policies.breaker"):
        fail(breaker, *[ConnectionError("redis://:secret@host")] * 9)
        await until(lambda: store.asked >= 3)
        store.error = None
        await until(lambda: not breaker.open)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert lines[0].startswith("the store does not answer (ConnectionError)")
    assert lines[1].startswith("the store answers again after")
    assert "secret" not in caplog.text


def test_what_is_said_of_an_error() -> None:
    assert said(ConnectionError("Error 111 connecting to host")) == "ConnectionError"
    assert said(ValueError("MISCONF Redis is configured to")) == "ValueError: MISCONF"
