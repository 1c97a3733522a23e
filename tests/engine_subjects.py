"""The engines that the contract suite runs over, and what it may expect of each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from backends.engines.base import Engine
from backends.engines.config import (
    FakeAnswer,
    FakeConfig,
    LlamaCppConfig,
    OpenAIHTTPConfig,
    TransformersConfig,
)
from backends.engines.fake import FakeEngine
from backends.engines.llamacpp import LlamaCppEngine
from backends.engines.llamacpp_wire import load_server
from backends.engines.openai_http import OpenAIHTTPEngine
from backends.engines.transformers.engine import TransformersEngine
from backends.engines.transformers.offline import OfflineEngine
from backends.errors import ModelFileError
from backends.models import default_model_path

CONTEXT = 512
PARALLEL = 4
KEY_VARIABLE = "ENGINE_CONTRACT_TEST_KEY"
KEY = "a key of this test alone"


@dataclass(frozen=True)
class Subject:
    """An engine under test, and what the suite may expect of this one.

    `busy` tells how many completions are in work; `dead` builds one like it that was not started.
    `quick_start`: starting another one takes no seconds. `keeps_prompts`: it has a prefix cache.
    """

    engine: Engine
    busy: Callable[[], Awaitable[int]]
    dead: Callable[[], Engine]
    names_stop: bool = True
    shares_prefill: bool = True
    quick_start: bool = True
    keeps_prompts: bool = True


def model_path() -> str:
    try:
        return str(default_model_path())
    except ModelFileError as error:
        pytest.skip(str(error))


async def fake_subject() -> AsyncIterator[Subject]:
    long = "Once upon a time\nthere was " + "a river and a town and " * 20
    said = (
        FakeAnswer(text=long, weight=3),
        FakeAnswer(text=f"It rained.\n{long}"),
        FakeAnswer(text=f"A {long}"),
    )
    config = FakeConfig(context_tokens=CONTEXT, parallel=PARALLEL, token_delay_s=0.001, answers={"": said})
    engine = FakeEngine(config)
    await engine.start()

    async def busy() -> int:
        return engine.active

    yield Subject(engine, busy, lambda: FakeEngine(config))
    await engine.aclose()


async def llamacpp_subject() -> AsyncIterator[Subject]:
    config = LlamaCppConfig(model_path=model_path(), context_tokens=CONTEXT, parallel=PARALLEL)
    engine = LlamaCppEngine(config)
    await engine.start()
    yield Subject(engine, engine.busy_slots, lambda: LlamaCppEngine(config), quick_start=False)
    await engine.aclose()


async def openai_subject() -> AsyncIterator[Subject]:
    path = Path(model_path())
    shape = LlamaCppConfig(context_tokens=CONTEXT, parallel=PARALLEL, prompt_cache_mib=0)
    holder = [await asyncio.to_thread(load_server, shape, path, KEY)]
    address = holder[0].listening_address
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY_VARIABLE, KEY)
        config = OpenAIHTTPConfig(
            base_url=f"{address}/v1",
            model="SmolLM2-135M-Instruct",
            api_key_env=KEY_VARIABLE,
            dialect="llamacpp",
            context_tokens=CONTEXT,
            parallel=PARALLEL,
        )
        engine = OpenAIHTTPEngine(config)
        await engine.start()

        async def busy() -> int:
            async with httpx.AsyncClient(
                headers={"Authorization": f"Bearer {KEY}"}, trust_env=False
            ) as client:
                slots = (await client.get(f"{address}/slots")).json()
            return sum(slot["is_processing"] for slot in slots)

        nobody = config.model_copy(update={"base_url": "http://127.0.0.1:9/v1"})
        yield Subject(engine, busy, lambda: OpenAIHTTPEngine(nobody), names_stop=False, shares_prefill=False)
        await engine.aclose()
    await asyncio.to_thread(holder.clear)


async def transformers_subject() -> AsyncIterator[Subject]:
    # float32: the suite compares texts of greedy replies, and bfloat16 rounds ties apart from batch to batch.
    config = TransformersConfig(
        model=model_path(), context_tokens=CONTEXT, parallel=PARALLEL, device="cpu", dtype="float32"
    )
    engine = TransformersEngine(config)
    await engine.start()

    async def busy() -> int:
        return engine.active

    yield Subject(engine, busy, lambda: TransformersEngine(config), quick_start=False)
    await engine.aclose()


async def offline_subject() -> AsyncIterator[Subject]:
    config = TransformersConfig(
        model=model_path(), context_tokens=CONTEXT, parallel=PARALLEL, device="cpu", dtype="float32"
    )
    engine = OfflineEngine(config)
    await engine.start()

    async def busy() -> int:
        return engine.active

    yield Subject(
        engine,
        busy,
        lambda: OfflineEngine(config),
        shares_prefill=False,
        quick_start=False,
        keeps_prompts=False,
    )
    await engine.aclose()


SUBJECTS = {
    "fake": fake_subject,
    "llamacpp": llamacpp_subject,
    "openai_http": openai_subject,
    "transformers": transformers_subject,
    "offline": offline_subject,
}
