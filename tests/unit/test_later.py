"""What the store could not be told: tried until it takes it, and nothing blocks the rest."""

from __future__ import annotations

import asyncio
import logging

import pytest

from policies.errors import LeaseNotOpen, StoreUnavailable
from policies.later import Later
from tests.tasks import until


class Store:
    def __init__(self) -> None:
        self.away = True
        self.told: list[str] = []
        self.tries = 0

    async def tell(self, what: str) -> None:
        self.tries += 1
        if self.away:
            raise StoreUnavailable("away")
        self.told.append(what)


def put(later: Later, store: Store, *names: str, wait_s: float = 0.0) -> None:
    for name in names:
        later.put(name, lambda name=name: store.tell(name), wait_s=wait_s)  # type: ignore[misc]


async def test_it_is_told_once_when_the_store_is_back() -> None:
    store, later = Store(), Later()
    put(later, store, "a", "b")
    await until(lambda: store.tries >= 4)
    assert len(later) == 2
    store.away = False
    await until(lambda: len(later) == 0)
    assert sorted(store.told) == ["a", "b"]


async def test_more_may_come_after_all_was_told() -> None:
    store, later = Store(), Later()
    store.away = False
    for name in ("a", "b"):
        put(later, store, name)
        await until(lambda: len(later) == 0)
    assert store.told == ["a", "b"]


async def test_what_can_never_be_told_does_not_hold_up_the_rest() -> None:
    store, later = Store(), Later()
    store.away = False
    never = Store()
    put(later, never, *(f"never {n}" for n in range(40)))
    put(later, store, *(f"now {n}" for n in range(40)))
    await until(lambda: len(store.told) == 40)
    await until(lambda: len(later) == 40)
    await later.aclose(timeout_s=0.0)


async def test_waiting_is_kept_to() -> None:
    store, later = Store(), Later()
    store.away = False
    put(later, store, "last", wait_s=0.2)
    put(later, store, "first")
    await until(lambda: len(store.told) == 2)
    assert store.told == ["first", "last"]


async def test_an_answer_is_an_answer_even_if_it_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    later = Later()

    async def gone() -> None:
        raise LeaseNotOpen("a:1", "unknown")

    async def bug() -> None:
        raise KeyError("x")

    later.put("gone", gone)
    later.put("a bug", bug)
    await until(lambda: len(later) == 0)
    assert "a bug failed and is given up" in caplog.text


async def test_the_oldest_is_given_up_when_there_are_too_many(caplog: pytest.LogCaptureFixture) -> None:
    store, later = Store(), Later(at_most=3)
    put(later, store, "a", "b", "c", "d")
    store.away = False
    await until(lambda: len(later) == 0)
    assert sorted(store.told) == ["b", "c", "d"]
    assert "given up: a" in caplog.text


async def test_closing_waits_a_while_and_says_what_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    store, later = Store(), Later()
    put(later, store, "a", "b")
    await asyncio.sleep(0)
    with caplog.at_level(logging.ERROR):
        await later.aclose(timeout_s=0.05)
    assert "2 operations were never told" in caplog.text
    put(later, store, "c")
    store.away = False
    await later.aclose(timeout_s=5.0)
    assert "c" in store.told
