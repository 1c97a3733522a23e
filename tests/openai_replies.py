"""What an OpenAI-compatible server sends, and an engine connected to one that is a function."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import httpx

from backends.engines.base import Chunk, Completion, Generation, Message, Sampling
from backends.engines.config import OpenAIHTTPConfig
from backends.engines.openai_http import OpenAIHTTPEngine

TEXT = "the caller's own words"
MESSAGES = (Message("system", "Be brief."), Message("user", TEXT))
USAGE = {"prompt_tokens": 20, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 16}}

Handler = Callable[[httpx.Request], httpx.Response]


def delta(text: str | None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish, **more}]}


def usage(**counts: Any) -> dict[str, Any]:
    return {"choices": [], "usage": {**USAGE, **counts}}


GOOD = [delta("Two"), delta(" plus"), delta("", "stop"), usage()]


async def connect(handler: Handler, **config: Any) -> OpenAIHTTPEngine:
    fields = {"base_url": "http://server/v1", "model": "m", "context_tokens": 4096, **config}
    engine = OpenAIHTTPEngine(OpenAIHTTPConfig(**fields), transport=httpx.MockTransport(handler))
    await engine.start()
    return engine


async def run(
    engine: OpenAIHTTPEngine, sampling: Sampling | None = None, prefix: str = "", cache_scope: str = ""
) -> tuple[list[Chunk], Completion]:
    generation = Generation(MESSAGES, sampling or Sampling(16), prefix, cache_scope)
    async with aclosing(engine.generate(generation)) as items:
        *chunks, done = [item async for item in items]
    assert isinstance(done, Completion)
    return chunks, done  # type: ignore[return-value]
