"""The contract of every engine, held by vLLM in this process and by its server behind the OpenAI protocol."""

from __future__ import annotations

import re

import httpx
import pytest

from backends.engines.openai_http import OpenAIHTTPEngine
from backends.engines.vllm import VLLMEngine
from tests.contract.test_engine_contract import *  # noqa: F403  the suite itself
from tests.engine_subjects import Subject
from tests.vllm.server import VLLMServer

pytestmark = pytest.mark.asyncio(loop_scope="session")

IN_CORE = re.compile(r"^vllm:num_requests_(?:running|waiting)\{[^}]*\} (\S+)", re.MULTILINE)


def http_subject(engine: OpenAIHTTPEngine, server: VLLMServer) -> Subject:
    async def busy() -> int:
        async with httpx.AsyncClient(trust_env=False) as client:
            gauges = (await client.get(f"{server.url}/metrics")).text
        return int(sum(float(count) for count in IN_CORE.findall(gauges)))

    nobody = engine.config.model_copy(update={"base_url": "http://127.0.0.1:9/v1"})
    return Subject(engine, busy, lambda: OpenAIHTTPEngine(nobody))


def native_subject(engine: VLLMEngine) -> Subject:
    async def busy() -> int:
        # vLLM's core cannot empty its prefix cache while a request holds a part of it.
        return int(not await engine._model._llm.reset_prefix_cache())  # type: ignore[union-attr]

    return Subject(engine, busy, lambda: VLLMEngine(engine.config), quick_start=False)


@pytest.fixture(scope="session", params=["openai_http", "vllm"])
def subject(request: pytest.FixtureRequest) -> Subject:
    if request.param == "vllm":
        return native_subject(request.getfixturevalue("native_engine"))
    return http_subject(request.getfixturevalue("http_engine"), request.getfixturevalue("server"))
