"""The transformers engine when it is cancelled, closed, stalled, or its thread dies."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from backends.engines.base import Chunk, Completion, Generation, Message, Sampling
from backends.engines.config import TransformersConfig
from backends.engines.transformers import engine as engine_module
from backends.engines.transformers.engine import TransformersEngine, _Running
from backends.errors import EngineUnavailable
from tests.tiny_model import CONTEXT, save_tiny_model

ASKED = (Message("user", "What is it that flows?"),)
LONG = Generation(ASKED, Sampling(200, temperature=1.0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny-llama")


def config_of(folder: Path, **fields: Any) -> TransformersConfig:
    plain = {"model": str(folder), "context_tokens": CONTEXT, "parallel": 3, "dtype": "float32"}
    return TransformersConfig.model_validate({**plain, "device": "cpu", **fields})


@pytest_asyncio.fixture
async def engine(folder: Path) -> AsyncIterator[TransformersEngine]:
    made = TransformersEngine(config_of(folder))
    await made.start()
    yield made
    await made.aclose()


def parts(engine: TransformersEngine) -> _Running:
    assert engine._running is not None
    return engine._running


async def drain(engine: TransformersEngine, generation: Generation = LONG) -> Completion:
    async with aclosing(engine.generate(generation)) as items:
        done = [item async for item in items][-1]
    assert isinstance(done, Completion)
    return done


async def idle(engine: TransformersEngine) -> None:
    async with asyncio.timeout(30):
        while engine.active:
            await asyncio.sleep(0)


def nothing_is_kept(engine: TransformersEngine) -> bool:
    """No request, handler, count or block is left from requests that are over."""
    batcher = parts(engine).batcher
    cache = batcher.manager.batch_processor.cache
    allocators = cache.cache_allocators.values()
    held = any(allocator.block_table or allocator.ledger.shared_ref_counts for allocator in allocators)
    cache.evict_cached_blocks()
    return not (
        held
        or batcher._requests
        or batcher._scheduler.cached_tokens
        or batcher.manager.output_router.result_handlers
        or not batcher.manager.output_router.output_queue.empty()
        or cache.compute_free_capacity() < 1
    )


async def test_what_is_over_leaves_nothing_behind(engine: TransformersEngine) -> None:
    await asyncio.gather(*(drain(engine, Generation(ASKED, Sampling(n))) for n in range(1, 9)))
    await drain(engine, Generation(ASKED, Sampling(60, temperature=2.0, stop=("a", "e", "\n", "0"))))
    for tokens_seen in (1, 2, 17):
        for _ in range(3):
            items = engine.generate(LONG)
            for _ in range(tokens_seen):
                assert isinstance(await anext(items), Chunk)
            await items.aclose()
    await idle(engine)
    await drain(engine, Generation(ASKED, Sampling(1)))  # the manager reports cancellations before it goes on
    assert nothing_is_kept(engine)


async def test_calls_cancelled_at_any_moment_leave_nothing_behind(engine: TransformersEngine) -> None:
    for turns in range(40):
        calls = [asyncio.create_task(drain(engine)) for _ in range(5)]
        for _ in range(turns):
            await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in ended)
    await idle(engine)
    await drain(engine, Generation(ASKED, Sampling(1)))
    assert nothing_is_kept(engine)
    assert await engine.healthy()


async def test_a_cancellation_that_overtakes_its_request_is_not_lost(engine: TransformersEngine) -> None:
    batcher = parts(engine).batcher
    scheduler = batcher._scheduler
    batcher.manager.cancel_request("0")  # the next request's id
    async with asyncio.timeout(30):
        while "0" not in scheduler._cancelled_unseen:
            await asyncio.sleep(0)
    request = batcher.submit([1, 2, 3], 100, {})
    output, last = await request.next(5)
    assert last
    assert output.generated_tokens == []
    assert engine.active == 0
    assert engine.forward_tokens == 0
    assert nothing_is_kept(engine)


async def test_closing_the_iterator_does_not_wait_for_the_step(engine: TransformersEngine) -> None:
    items = engine.generate(LONG)
    await anext(items)
    held, model = threading.Event(), parts(engine).loaded.model
    forward, entered = model.forward, threading.Event()

    def slow(*args: Any, **kwargs: Any) -> Any:
        entered.set()
        held.wait(10)
        return forward(*args, **kwargs)

    model.forward = slow
    await asyncio.to_thread(entered.wait, 30)
    async with asyncio.timeout(0.5):
        await items.aclose()
    held.set()
    await idle(engine)


async def test_a_thread_that_dies_fails_everyone_at_once(engine: TransformersEngine) -> None:
    calls = [asyncio.create_task(drain(engine)) for _ in range(5)]
    async with asyncio.timeout(30):
        while engine.active < 3:
            await asyncio.sleep(0)

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("the device has gone away; the prompt was: a secret")

    parts(engine).loaded.model.forward = broken
    async with asyncio.timeout(30):
        ended = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(result, EngineUnavailable) for result in ended)
    assert not any("secret" in str(result) for result in ended)
    assert not await engine.healthy()
    with pytest.raises(EngineUnavailable):
        await drain(engine)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_thread_that_vanishes_without_a_word_is_noticed(engine: TransformersEngine) -> None:
    items = engine.generate(LONG)
    await anext(items)

    def vanish(*_: Any, **__: Any) -> Any:
        raise SystemExit

    parts(engine).loaded.model.forward = vanish
    async with asyncio.timeout(30):
        with pytest.raises(EngineUnavailable, match="died"):
            async for _ in items:
                pass
    assert not await engine.healthy()


async def test_a_step_that_never_ends_is_given_up(folder: Path) -> None:
    engine = TransformersEngine(config_of(folder, stall_timeout_s=0.3))
    await engine.start()
    held, model = threading.Event(), parts(engine).loaded.model
    forward = model.forward

    def stuck(*args: Any, **kwargs: Any) -> Any:
        held.wait(10)
        return forward(*args, **kwargs)

    model.forward = stuck
    try:
        with pytest.raises(EngineUnavailable, match=r"nothing for 0\.3 s"):
            await drain(engine)
    finally:
        held.set()
        await engine.aclose()


async def test_closing_ends_what_runs_and_the_thread(folder: Path) -> None:
    engine = TransformersEngine(config_of(folder))
    await engine.start()
    manager = parts(engine).batcher.manager
    calls = [asyncio.create_task(drain(engine)) for _ in range(5)]
    async with asyncio.timeout(30):
        while engine.active < 3:
            await asyncio.sleep(0)
    await engine.aclose()
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(result, EngineUnavailable) for result in ended)
    assert not manager.is_running()
    assert not await engine.healthy()


async def test_closing_ends_the_calls_that_wait_for_a_place_too(folder: Path) -> None:
    engine = TransformersEngine(config_of(folder))
    await engine.start()
    calls = [asyncio.create_task(drain(engine)) for _ in range(5)]
    async with asyncio.timeout(30):
        while engine.active < 3:
            await asyncio.sleep(0)
    batcher, go_on = parts(engine).batcher, threading.Event()
    release = batcher.release
    batcher.release = lambda: (go_on.wait(60), release())  # type: ignore[method-assign,assignment]
    closing = asyncio.create_task(engine.aclose())
    try:
        async with asyncio.timeout(30):  # the manager's thread still runs: nothing may be handed to it
            ended = await asyncio.gather(*calls, return_exceptions=True)
    finally:
        go_on.set()
        await closing
    assert all(isinstance(result, EngineUnavailable) for result in ended)


async def test_a_start_that_is_cancelled_leaves_no_thread(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, made, released = threading.Event(), [], threading.Event()
    load = engine_module._load

    def slow(config: TransformersConfig) -> Any:
        go_on.wait(10)
        loaded = load(config)
        made.append(loaded[1])
        release = loaded[1].release
        monkeypatch.setattr(loaded[1], "release", lambda: (release(), released.set()))
        return loaded

    monkeypatch.setattr(engine_module, "_load", slow)
    engine = TransformersEngine(config_of(folder))
    starting = asyncio.create_task(engine.start())
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    go_on.set()
    assert await asyncio.to_thread(released.wait, 20)
    assert not made[0].manager.is_running()
    assert not await engine.healthy()


async def test_too_little_memory_for_the_cache_is_said_at_start(folder: Path) -> None:
    engine = TransformersEngine(config_of(folder, cache_blocks=2**40))
    with pytest.raises(EngineUnavailable, match="could not start"):
        await engine.start()
    assert not await engine.healthy()


def test_a_process_that_forgets_to_close_still_ends(folder: Path) -> None:
    code = (
        "import asyncio\n"
        "from backends.engines.base import Generation, Message, Sampling\n"
        "from backends.engines.config import TransformersConfig\n"
        "from backends.engines.transformers.engine import TransformersEngine\n"
        f"config = TransformersConfig(model={str(folder)!r}, context_tokens=64, device='cpu')\n"
        "engine = TransformersEngine(config)\n"
        "async def main():\n"
        "    await engine.start()\n"
        "    async for _ in engine.generate(Generation((Message('user', 'a'),), Sampling(3))):\n"
        "        pass\n"
        "asyncio.run(main())\n"
        "print('done')\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=300, capture_output=True, text=True
    )
    assert run.stdout.strip() == "done"
