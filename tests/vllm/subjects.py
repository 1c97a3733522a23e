"""vLLM as subjects of the engine contract, and the environment that it needs on a CPU."""

from __future__ import annotations

import os
import re

import httpx

from backends.engines.openai_http import OpenAIHTTPEngine
from backends.engines.vllm import VLLMEngine
from tests.engine_subjects import CONTEXT, PARALLEL, Subject
from tests.vllm.server import VLLMServer
from tests.vllm.smollm2 import BLOCK_TOKENS

# A GiB of key-value cache each, and no look for the model on a hub.
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

MODEL_NAME = "smollm2"
IN_CORE = re.compile(r"^vllm:num_requests_(?:running|waiting)\{[^}]*\} (\S+)", re.MULTILINE)


def server_options() -> list[str]:
    """What the dialect "vllm" wants of a server, in the shape that the contract asks for."""
    return [
        *("--max-model-len", str(CONTEXT), "--max-num-seqs", str(PARALLEL), "--dtype", "float32"),
        *("--block-size", str(BLOCK_TOKENS), "--enforce-eager", "--enable-prompt-tokens-details"),
    ]


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
