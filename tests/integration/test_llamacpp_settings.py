"""Settings on the real engine: quantised keys and values, and drafts, which change no greedy reply."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from backends.engines.base import Completion, Generation, Message, Sampling
from backends.engines.config import LlamaCppConfig
from backends.engines.llamacpp import LlamaCppEngine
from backends.errors import ModelFileError
from backends.models import default_model_path

COUNT = (Message("user", "Count from 1 to 10."),)


@pytest.fixture(scope="module")
def model() -> Path:
    try:
        return default_model_path()
    except ModelFileError as error:
        pytest.skip(str(error))


async def started(model: Path, **settings: Any) -> LlamaCppEngine:
    config = LlamaCppConfig(model_path=str(model), context_tokens=512, parallel=2, threads=1, **settings)
    engine = LlamaCppEngine(config)
    await engine.start()
    return engine


async def greedy(engine: LlamaCppEngine) -> Completion:
    async with aclosing(engine.generate(Generation(COUNT, Sampling(32)))) as items:
        async for item in items:
            last = item
    assert isinstance(last, Completion)
    return last


async def test_drafts_change_neither_a_greedy_reply_nor_its_counts(model: Path) -> None:
    plain = await started(model)
    alone = await greedy(plain)
    await plain.aclose()
    drafting = await started(model, draft_model_path=str(model), draft_tokens=4)
    try:
        drafted = await greedy(drafting)
        reply = await drafting._post("/completion", {"prompt": "1 2 3 4", "n_predict": 16, "temperature": 0})
    finally:
        await drafting.aclose()
    assert drafted.text == alone.text
    assert (drafted.prompt_tokens, drafted.completion_tokens) == (
        alone.prompt_tokens,
        alone.completion_tokens,
    )
    # The server tells none of drafted tokens, so none is asked for, and strategies know it beforehand.
    assert (len(alone.logprobs), drafted.logprobs) == (alone.completion_tokens, ())
    assert (drafting.info.logprobs, drafting.info.top_logprobs) == (False, 0)
    # The model agrees with itself: drafts were made, and accepted.
    assert reply["timings"]["draft_n_accepted"] > 0


async def test_quantised_keys_and_values_answer(model: Path) -> None:
    engine = await started(model, cache_type_k="q8_0", cache_type_v="q8_0", flash_attention="on")
    try:
        done = await greedy(engine)
    finally:
        await engine.aclose()
    assert "2" in done.text
    assert done.completion_tokens == 32
