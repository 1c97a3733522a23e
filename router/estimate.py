"""The size of a prompt before a tokenizer has seen it."""

from __future__ import annotations

from collections.abc import Sequence

from backends.engines.base import Message
from backends.engines.build import OpenAIHTTPConfig
from router.config import AppConfig

TURN_TOKENS = 8  # what a chat template adds to a turn
TEMPLATE_TOKENS = 48  # and to a conversation: a default system prompt


def estimated_prompt_tokens(messages: Sequence[Message], bytes_per_token: float) -> int:
    """From the bytes of the messages and what a chat template adds."""
    size = sum(len(message.content.encode()) for message in messages)
    return int(size / bytes_per_token) + len(messages) * TURN_TOKENS + TEMPLATE_TOKENS


def prompt_bytes_per_token(config: AppConfig) -> float:
    """About 3 for engines that count prompts exactly and ask for more; an upper bound for the others."""
    engines = [tier.engine for tier in config.tiers.values()]
    bounded = any(isinstance(e, OpenAIHTTPConfig) and e.dialect == "openai" for e in engines)
    return 1.0 if bounded else 3.0
