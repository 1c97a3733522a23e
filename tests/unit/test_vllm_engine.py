"""VLLMEngine's own doings: starting, stopping, aborting, and errors; vLLM itself is a script here."""

from __future__ import annotations

import asyncio
import threading
from contextlib import aclosing
from typing import Any

import pytest

from backends.engines.base import Chunk, Completion, Engine, Generation, Message, Sampling
from backends.engines.build import build_engine
from backends.engines.config import VLLMConfig
from backends.engines.vllm import VLLMEngine
from backends.errors import ContextOverflow, EngineUnavailable, ModelFileError
from tests.fakes_vllm import PROMPT, ScriptedVLLM, output

MESSAGES = (Message("user", "Count."),)
GOOD = (output("one", cached=2), output(" two", finish="length"))


def config(**fields: Any) -> VLLMConfig:
    return VLLMConfig(**{"model": "/no/such/model", "context_tokens": 64, **fields})


async def started(model: ScriptedVLLM, **fields: Any) -> VLLMEngine:
    engine = VLLMEngine(config(**fields), load=lambda _: model)
    await engine.start()
    return engine


async def run(
    engine: VLLMEngine, sampling: Sampling | None = None, **fields: Any
) -> list[Chunk | Completion]:
    generation = Generation(MESSAGES, sampling or Sampling(8), **fields)
    async with aclosing(engine.generate(generation)) as items:
        return [item async for item in items]


async def test_chunks_then_the_completion() -> None:
    model = ScriptedVLLM(*GOOD)
    engine = await started(model)
    assert isinstance(engine, Engine)
    *chunks, done = await run(engine)
    assert chunks == [Chunk("one", 1), Chunk(" two", 2)]
    assert isinstance(done, Completion)
    assert (done.text, done.finish, done.cached_tokens) == ("one two", "length", 2)
    assert model.aborted == []  # it ended by itself


async def test_scopes_salt_the_prefix_cache_and_prefixes_lengthen_the_prompt() -> None:
    model = ScriptedVLLM(*GOOD)
    engine = await started(model)
    for scope in ("a", "b", "a", ""):
        await run(engine, cache_scope=scope, prefix="Step one.")
    salts = [asked["salt"] for asked in model.asked]
    assert salts[0] == salts[2] != salts[1]
    assert salts[3] is None
    assert model.asked[0]["prompt"] == [*PROMPT, 9, 9]
    assert await engine.count_prompt_tokens(MESSAGES, "Step one.") == len(PROMPT) + 2


async def test_the_room_that_the_context_leaves_bounds_the_completion() -> None:
    model = ScriptedVLLM(*GOOD, prompt=[1] * 60)
    engine = await started(model)
    await run(engine, Sampling(100))
    assert model.asked[0]["fields"]["max_tokens"] == 4
    for size in (64, 65):
        model.prompt = [1] * size
        with pytest.raises(ContextOverflow) as caught:
            await run(engine)
        assert (caught.value.prompt_tokens, caught.value.context_tokens) == (size, 64)
    assert len(model.asked) == 1


async def test_closing_early_aborts_on_the_engine() -> None:
    model = ScriptedVLLM(output("one"))
    engine = await started(model)
    items = engine.generate(Generation(MESSAGES, Sampling(8)))
    assert await anext(items) == Chunk("one", 1)
    await items.aclose()
    assert model.aborted == [model.asked[0]["id"]]


async def test_a_call_cancelled_while_it_is_handed_over_is_aborted_too() -> None:
    model = ScriptedVLLM(*GOOD)
    model.hand_over = asyncio.Event()
    engine = await started(model)
    task = asyncio.create_task(run(engine))
    while not model.asked:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert model.aborted == [model.asked[0]["id"]]


async def test_an_engine_that_fails_ends_the_call_and_forgets_it() -> None:
    model = ScriptedVLLM(output("one"), EngineUnavailable("gone"))
    engine = await started(model)
    with pytest.raises(EngineUnavailable, match="gone"):
        await run(engine)
    assert len(model.aborted) == 1
    await engine.aclose()
    assert len(model.aborted) == 1


async def test_an_engine_that_hangs_is_unavailable_after_the_stall_timeout() -> None:
    model = ScriptedVLLM(output("one"))
    engine = await started(model, stall_timeout_s=0.01)
    with pytest.raises(EngineUnavailable, match=r"0\.01 s"):
        await run(engine)
    assert len(model.aborted) == 1


async def test_closing_the_engine_ends_what_runs() -> None:
    model = ScriptedVLLM(output("one"))
    engine = await started(model)
    items = engine.generate(Generation(MESSAGES, Sampling(8)))
    await anext(items)
    await engine.aclose()
    with pytest.raises(EngineUnavailable, match="closed"):
        await anext(items)
    assert model.shutdowns == 1
    await engine.aclose()
    assert model.shutdowns == 1
    assert not await engine.healthy()


async def test_an_engine_that_died_is_not_healthy_and_takes_nothing() -> None:
    model = ScriptedVLLM(*GOOD)
    engine = await started(model)
    assert await engine.healthy()
    model.is_alive = False
    assert not await engine.healthy()
    with pytest.raises(EngineUnavailable):
        await run(engine)
    with pytest.raises(EngineUnavailable):
        await engine.count_prompt_tokens(MESSAGES)
    assert model.asked == []


async def test_starting_twice_loads_once() -> None:
    loaded: list[VLLMConfig] = []

    def load(given: VLLMConfig) -> ScriptedVLLM:
        loaded.append(given)
        return ScriptedVLLM(*GOOD)

    engine = VLLMEngine(config(), load=load)
    await engine.start()
    await engine.start()
    assert loaded == [engine.config]


async def test_a_start_that_is_cancelled_frees_what_it_loaded() -> None:
    model, loading, go_on = ScriptedVLLM(*GOOD), threading.Event(), threading.Event()

    def load(_: VLLMConfig) -> ScriptedVLLM:
        loading.set()
        go_on.wait()
        return model

    engine = VLLMEngine(config(), load=load)
    task = asyncio.create_task(engine.start())
    await asyncio.to_thread(loading.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert model.shutdowns == 0
    go_on.set()
    async with asyncio.timeout(10):
        while model.shutdowns == 0:
            await asyncio.sleep(0)
    assert not await engine.healthy()


async def test_an_engine_that_dies_while_it_starts_is_freed() -> None:
    model = ScriptedVLLM()
    model.ready_error = EngineUnavailable("died while it started")
    engine = VLLMEngine(config(), load=lambda _: model)
    with pytest.raises(EngineUnavailable, match="started"):
        await engine.start()
    async with asyncio.timeout(10):
        while model.shutdowns == 0:
            await asyncio.sleep(0)
    assert not await engine.healthy()


async def test_a_folder_that_is_not_there_is_said_before_vllm_is_touched() -> None:
    engine = build_engine(config())
    assert type(engine) is VLLMEngine
    with pytest.raises(ModelFileError, match="/no/such/model"):
        await engine.start()
