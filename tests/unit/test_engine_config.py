"""Engine configurations: what they accept, and which engine each builds."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import TypeAdapter, ValidationError

from backends.engines.base import Engine
from backends.engines.build import EngineConfig, build_engine
from backends.engines.config import FakeConfig, LlamaCppConfig, OpenAIHTTPConfig
from backends.engines.fake import FakeEngine
from backends.engines.llamacpp import LlamaCppEngine
from backends.engines.openai_http import OpenAIHTTPEngine

ADAPTER: TypeAdapter[LlamaCppConfig | OpenAIHTTPConfig | FakeConfig] = TypeAdapter(EngineConfig)
HTTP = {"kind": "openai_http", "base_url": "http://localhost:8000/v1", "model": "m", "context_tokens": 4096}


@pytest.mark.parametrize(
    ("document", "engine"),
    [({"kind": "llamacpp"}, LlamaCppEngine), (HTTP, OpenAIHTTPEngine), ({"kind": "fake"}, FakeEngine)],
    ids=["llamacpp", "openai_http", "fake"],
)
def test_the_kind_chooses_the_engine(document: dict[str, object], engine: type) -> None:
    config = ADAPTER.validate_python(document)
    built = build_engine(config)
    assert type(built) is engine
    assert isinstance(built, Engine)
    assert ADAPTER.validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"kind": "vllm"},
        {"kind": "llamacpp", "contxt_tokens": 1},
        {"kind": "llamacpp", "parallel": 0},
        {"kind": "llamacpp", "context_tokens": 1},
        {"kind": "openai_http"},
        {**HTTP, "base_url": "ftp://x"},
        {**HTTP, "base_url": "localhost:8000"},
        {**HTTP, "dialect": "other"},
        {**HTTP, "api_key": "sk-1"},
        {**HTTP, "stall_timeout_s": 0},
        {**HTTP, "dialect": "llamacpp", "logprobs": True},
    ],
)
def test_mistakes_are_refused(document: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ADAPTER.validate_python(document)


def test_configurations_are_frozen() -> None:
    with pytest.raises(ValidationError):
        LlamaCppConfig().parallel = 9  # type: ignore[misc]


@pytest.mark.parametrize(
    ("dialect", "logprobs", "prefix", "exact"),
    [("openai", False, False, False), ("vllm", True, True, True), ("llamacpp", False, True, True)],
)
def test_the_dialect_says_what_the_engine_can_do(
    dialect: str, logprobs: bool, prefix: bool, exact: bool
) -> None:
    info = build_engine(ADAPTER.validate_python({**HTTP, "dialect": dialect, "parallel": 3})).info
    assert (info.logprobs, info.continues_prefix, info.exact_prompt_count) == (logprobs, prefix, exact)
    assert (info.model, info.context_tokens, info.parallel) == ("m", 4096, 3)


def test_logprobs_may_be_asked_of_an_openai_server_and_declined_of_vllm() -> None:
    assert build_engine(ADAPTER.validate_python({**HTTP, "logprobs": True})).info.logprobs
    assert not build_engine(
        ADAPTER.validate_python({**HTTP, "dialect": "vllm", "logprobs": False})
    ).info.logprobs


def test_a_llamacpp_engine_is_named_after_its_model() -> None:
    assert LlamaCppEngine(LlamaCppConfig()).info.model == "SmolLM2-135M-Instruct"
    assert LlamaCppEngine(LlamaCppConfig(model_path="/models/big.Q8_0.gguf")).info.model == "big.Q8_0"
    assert LlamaCppEngine(LlamaCppConfig(model_path="/models/big.gguf", model="Big")).info.model == "Big"


def test_building_imports_no_engine_library() -> None:
    code = (
        "import sys\n"
        "from backends.engines.build import FakeConfig, LlamaCppConfig, build_engine\n"
        "build_engine(FakeConfig())\n"
        "assert 'httpx' not in sys.modules\n"
        "build_engine(LlamaCppConfig())\n"
        "assert not {'xllamacpp', 'torch', 'openai'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
