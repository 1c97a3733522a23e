"""From messages to the model's tokens: its chat template, then the start of the reply that is continued."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from backends.engines.base import Message
from backends.errors import EngineProtocolError

PROMPTS_KEPT = 128


class PromptEncoder:
    """Templates and tokenizes in a thread of its own, one prompt at a time.

    A tokenizer may not be used by several threads at once, and long prompts would hold up the event loop.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prompts")
        self._kept: OrderedDict[tuple[tuple[Message, ...], str], tuple[int, ...]] = OrderedDict()

    async def encode(self, messages: Sequence[Message], prefix: str) -> tuple[int, ...]:
        """The tokens of the templated prompt with `prefix` after it. Raises EngineProtocolError."""
        key = (tuple(messages), prefix)
        tokens = self._kept.get(key)
        if tokens is None:
            loop = asyncio.get_running_loop()
            tokens = await loop.run_in_executor(self._thread, self._encode, *key)
            self._kept[key] = tokens
            if len(self._kept) > PROMPTS_KEPT:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(key)
        return tokens

    def close(self) -> None:
        """Let the thread end; prompts that wait for it are given up."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _encode(self, messages: tuple[Message, ...], prefix: str) -> tuple[int, ...]:
        from jinja2 import TemplateError

        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            text = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            raise EngineProtocolError(
                f"the model's chat template refuses these messages: {error.message or 'it does not say why'}"
            ) from error
        # The prefix is appended here: the template's own continue_final_message trims white space, and cuts
        # the text at the wrong place where the prefix occurs twice. Templates write the special tokens.
        return tuple(self._tokenizer(text + prefix, add_special_tokens=False).input_ids)
