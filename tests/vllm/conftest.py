"""Only `make test-vllm` collects this folder: it starts a real vLLM, twice, which takes minutes on a CPU."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from backends.engines.config import OpenAIHTTPConfig
from backends.engines.openai_http import OpenAIHTTPEngine
from backends.engines.vllm import VLLMEngine
from tests.engine_subjects import CONTEXT, KEY, KEY_VARIABLE, PARALLEL
from tests.vllm.server import VLLMServer
from tests.vllm.smollm2 import model_folder, vllm_config
from tests.vllm.subjects import MODEL_NAME, server_options

collect_ignore_glob = [] if os.environ.get("ACR_TEST_VLLM") else ["test_*.py"]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLMServer]:
    """A vLLM server as the dialect "vllm" wants it."""
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    running = VLLMServer(model_folder(), MODEL_NAME, KEY, log, *server_options())
    try:
        running.wait()
        yield running
    finally:
        running.stop()


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def http_engine(server: VLLMServer) -> AsyncIterator[OpenAIHTTPEngine]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY_VARIABLE, KEY)
        config = OpenAIHTTPConfig(
            base_url=f"{server.url}/v1",
            model=MODEL_NAME,
            api_key_env=KEY_VARIABLE,
            dialect="vllm",
            context_tokens=CONTEXT,
            parallel=PARALLEL,
        )
        engine = OpenAIHTTPEngine(config)
        await engine.start()
        yield engine
        await engine.aclose()


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def native_engine() -> AsyncIterator[VLLMEngine]:
    engine = VLLMEngine(vllm_config())
    await engine.start()
    yield engine
    await engine.aclose()
