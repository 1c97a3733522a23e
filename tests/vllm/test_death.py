"""What becomes of calls when vLLM's own process is killed, or is closed under them."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from backends.engines.base import Chunk, Generation, Sampling
from backends.engines.vllm import VLLMEngine
from backends.errors import EngineUnavailable
from tests.contract.test_engine_contract import STORY
from tests.vllm.smollm2 import vllm_config

LONG = Sampling(400, temperature=1.0, seed=1)


def children(pid: int) -> list[int]:
    """The processes that `pid` started (Linux)."""
    started = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in started.read_text().split()] if started.exists() else []


def gone(pid: int) -> bool:
    with suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    return True


async def test_a_core_that_is_killed_ends_the_calls_and_the_engine() -> None:
    engine = VLLMEngine(vllm_config())
    await engine.start()
    call = engine.generate(Generation(STORY, LONG))
    assert isinstance(await anext(call), Chunk)
    core = engine._model._llm.engine_core.resources.engine_manager.processes[0].pid  # type: ignore[union-attr]
    family = [core, *children(core)]
    os.kill(core, signal.SIGKILL)
    async with asyncio.timeout(60):
        with pytest.raises(EngineUnavailable):
            async for _ in call:
                pass
        while await engine.healthy():
            await asyncio.sleep(0.05)
    with pytest.raises(EngineUnavailable):
        await anext(engine.generate(Generation(STORY, LONG)))
    with pytest.raises(EngineUnavailable):
        await engine.count_prompt_tokens(STORY)
    async with asyncio.timeout(60):
        await engine.aclose()
        await engine.aclose()
        while not all(gone(pid) for pid in family):
            await asyncio.sleep(0.05)


async def test_closing_the_engine_ends_its_calls_and_its_processes() -> None:
    engine = VLLMEngine(vllm_config())
    await engine.start()
    call = engine.generate(Generation(STORY, LONG))
    await anext(call)
    core = engine._model._llm.engine_core.resources.engine_manager.processes[0].pid  # type: ignore[union-attr]
    family = [core, *children(core)]
    async with asyncio.timeout(60):
        await engine.aclose()
        with pytest.raises(EngineUnavailable):
            async for _ in call:
                pass
        while not all(gone(pid) for pid in family):
            await asyncio.sleep(0.05)
    assert not await engine.healthy()
