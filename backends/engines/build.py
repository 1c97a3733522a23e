"""From a configuration to the engine it describes; each engine's module is imported when first used."""

from __future__ import annotations

from backends.engines.base import Engine
from backends.engines.config import (
    EngineConfig,
    FakeConfig,
    LlamaCppConfig,
    OpenAIHTTPConfig,
    TransformersConfig,
    VLLMConfig,
)

__all__ = [
    "EngineConfig",
    "FakeConfig",
    "LlamaCppConfig",
    "OpenAIHTTPConfig",
    "TransformersConfig",
    "VLLMConfig",
    "build_engine",
]


def build_engine(
    config: LlamaCppConfig | OpenAIHTTPConfig | TransformersConfig | VLLMConfig | FakeConfig,
) -> Engine:
    """The engine, not yet started. Nothing is loaded or connected before its `start()`."""
    if isinstance(config, LlamaCppConfig):
        from backends.engines.llamacpp import LlamaCppEngine

        return LlamaCppEngine(config)
    if isinstance(config, OpenAIHTTPConfig):
        from backends.engines.openai_http import OpenAIHTTPEngine

        return OpenAIHTTPEngine(config)
    if isinstance(config, TransformersConfig):
        from backends.engines.transformers.engine import TransformersEngine

        return TransformersEngine(config)
    if isinstance(config, VLLMConfig):
        from backends.engines.vllm import VLLMEngine

        return VLLMEngine(config)
    from backends.engines.fake import FakeEngine

    return FakeEngine(config)
