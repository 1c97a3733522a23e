"""vLLM's own API (proven with 0.32), in one place: loading, templates, generating, aborting, its errors."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import Any

from backends.engines.base import Message
from backends.engines.config import VLLMConfig
from backends.engines.vllm_wire import NAME, engine_args
from backends.errors import EngineProtocolError, EngineUnavailable, ModelFileError

# Set where the operator has not: a fork of a process with threads (Ray's, gRPC's) may hang, and vLLM
# reports its usage to its makers.
ENVIRONMENT = {"VLLM_WORKER_MULTIPROC_METHOD": "spawn", "VLLM_NO_USAGE_STATS": "1"}


class NativeVLLM:
    """A loaded model. Making one blocks for as long as loading takes; the work runs in processes of its own.

    Raises ModelFileError for a folder that is not there, EngineUnavailable for all else.
    """

    def __init__(self, config: VLLMConfig) -> None:
        path = Path(config.model).expanduser()
        if path.is_absolute() and not path.is_dir():
            raise ModelFileError(f"there is no model folder at {path}: correct the engine's model")
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        try:
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.v1.engine.async_llm import AsyncLLM
        except ImportError as error:
            raise EngineUnavailable(
                f"{NAME} cannot be imported ({error}): install adaptive-compute-router[vllm]"
            ) from error
        try:
            self._llm: Any = AsyncLLM.from_engine_args(AsyncEngineArgs(**engine_args(config)))
        except Exception as error:  # anything from OSError to AssertionError, by what is wrong
            reason = " ".join(str(error).split())[:300]
            raise EngineUnavailable(f"{NAME} could not load {config.model}: {reason}") from error
        self._tokenizer: Any = self._llm.get_tokenizer()
        # One thread: for a second one vLLM would copy its tokenizer.
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="vllm-encode")
        if not getattr(self._tokenizer, "chat_template", None):
            self.shutdown()
            raise EngineUnavailable(f"{config.model} has no chat template: add one to its tokenizer")

    async def ready(self) -> None:
        """One exchange with the process that computes. Raises EngineUnavailable."""
        from vllm.exceptions import VLLMError

        try:
            tasks = await self._llm.get_supported_tasks()
        except VLLMError as error:
            raise EngineUnavailable(f"{NAME} died while it started") from error
        if "generate" not in tasks:
            raise EngineUnavailable(f"{NAME} cannot generate text with this model")

    def alive(self) -> bool:
        """Whether the processes that compute are there."""
        return not self._llm.errored

    async def encode(self, messages: Sequence[Message], prefix: str) -> list[int]:
        """The templated prompt with `prefix` after it, as token numbers.

        Raises EngineProtocolError for a conversation that the model's template refuses.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._encoder, self._encode, messages, prefix)

    def _encode(self, messages: Sequence[Message], prefix: str) -> list[int]:
        from jinja2 import TemplateError

        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            text = self._tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        except TemplateError as error:
            raise EngineProtocolError("the model's chat template refused the conversation") from error
        # The template writes the special tokens itself.
        return list(self._tokenizer(text + prefix, add_special_tokens=False)["input_ids"])

    async def generate(
        self, prompt: list[int], salt: str | None, fields: dict[str, Any], request_id: str
    ) -> AsyncGenerator[Any, None]:
        """vLLM's `RequestOutput`s, each with what is new. Raises EngineUnavailable, EngineProtocolError."""
        from vllm.exceptions import GracefulHTTPError, VLLMClientError, VLLMServerError
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        try:
            params = SamplingParams(output_kind=RequestOutputKind.DELTA, **fields)
            given = tokens_input(prompt, cache_salt=salt)
            async with aclosing(self._llm.generate(given, params, request_id)) as outputs:
                async for output in outputs:
                    yield output
        except VLLMClientError as error:
            raise EngineProtocolError(
                f"{NAME} did not accept the request ({type(error).__name__})"
            ) from error
        except (VLLMServerError, GracefulHTTPError) as error:
            raise EngineUnavailable(f"{NAME} failed while it answered ({type(error).__name__})") from error

    async def abort(self, request_id: str) -> None:
        """Stop a request, known or not; its outputs end with finish_reason "abort"."""
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            await self._llm.abort(request_id)
        except EngineDeadError:
            return  # nothing is left to stop

    def shutdown(self) -> None:
        """End the processes; blocks for a moment."""
        self._encoder.shutdown(wait=False)
        handler = self._llm.output_handler
        if handler is not None and not handler.get_loop().is_closed():
            # vLLM would log its own end as a failure.
            handler.get_loop().call_soon_threadsafe(handler.cancel)
        self._llm.shutdown()
