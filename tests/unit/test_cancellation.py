from __future__ import annotations

import asyncio

import pytest

from router.cancellation import heeding_cancellation


async def deaf(gate: asyncio.Event) -> str:
    """Ignores one cancellation, as `asyncio.wait_for` of Python 3.11 may."""
    try:
        await gate.wait()
    except asyncio.CancelledError:
        await asyncio.sleep(0)
    return "done"


async def test_a_result_passes():
    gate = asyncio.Event()
    gate.set()
    assert await heeding_cancellation(deaf(gate)) == "done"


async def test_an_error_passes():
    async def broken() -> None:
        raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        await heeding_cancellation(broken())


async def test_a_lost_cancellation_is_found():
    task = asyncio.create_task(heeding_cancellation(deaf(asyncio.Event())))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_lost_timeout_is_found():
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await heeding_cancellation(deaf(asyncio.Event()))


async def test_a_cancellation_of_before_is_not_counted_again():
    async def cleaning_up() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            gate = asyncio.Event()
            gate.set()
            return await heeding_cancellation(deaf(gate))
        raise AssertionError

    task = asyncio.create_task(cleaning_up())
    await asyncio.sleep(0)
    task.cancel()
    assert await task == "done"
