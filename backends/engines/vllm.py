"""vLLM in this process (`AsyncLLM`): continuous batching, prefix caching salted by tenant, exact counts."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any, Protocol

from backends.engines.base import Chunk, Completion, EngineInfo, Generation, Message
from backends.engines.config import VLLMConfig
from backends.engines.vllm_wire import NAME, CollectedOutput, cache_salt, engine_info, sampling_fields
from backends.errors import ContextOverflow, EngineUnavailable


class LoadedModel(Protocol):
    """What the engine needs of vLLM; `NativeVLLM` is the real one."""

    async def ready(self) -> None: ...

    def alive(self) -> bool: ...

    async def encode(self, messages: Sequence[Message], prefix: str) -> list[int]: ...

    def generate(
        self, prompt: list[int], salt: str | None, fields: dict[str, Any], request_id: str
    ) -> AsyncGenerator[Any, None]: ...

    async def abort(self, request_id: str) -> None: ...

    def shutdown(self) -> None: ...


def _load(config: VLLMConfig) -> LoadedModel:
    from backends.engines.vllm_native import NativeVLLM

    return NativeVLLM(config)


class VLLMEngine:
    """Runs one model; at most `config.parallel` completions at once, the rest wait in vLLM's own queue.

    Calls of equal `cache_scope` share prefixes, others do not. `load` replaces vLLM in tests.
    """

    def __init__(self, config: VLLMConfig, load: Callable[[VLLMConfig], LoadedModel] = _load) -> None:
        self.config = config
        self._info = engine_info(config)
        self._load = load
        self._model: LoadedModel | None = None
        self._running: set[str] = set()

    @property
    def info(self) -> EngineInfo:
        return self._info

    async def start(self) -> None:
        """Load the model (a minute and more, in a thread). Raises ModelFileError, EngineUnavailable."""
        if self._model is not None:
            return
        loading = asyncio.ensure_future(asyncio.to_thread(self._load, self.config))
        try:
            model = await asyncio.shield(loading)
        except asyncio.CancelledError:
            # The thread cannot be stopped; what it loads must still be freed, off the event loop.
            loading.add_done_callback(_discard)
            raise
        try:
            await model.ready()
        except BaseException:
            _discard(loading)
            raise
        self._model = model

    async def aclose(self) -> None:
        """Stop vLLM; running generations end with EngineUnavailable. May be called twice."""
        model, self._model = self._model, None
        if model is None:
            return
        try:
            for request_id in tuple(self._running):
                await model.abort(request_id)
        finally:
            await asyncio.to_thread(model.shutdown)

    async def healthy(self) -> bool:
        """Whether vLLM's processes are alive."""
        return self._model is not None and self._model.alive()

    async def count_prompt_tokens(self, messages: Sequence[Message], prefix: str = "") -> int:
        """Tokens of the templated prompt with `prefix` after it; exact."""
        return len(await self._loaded().encode(messages, prefix))

    async def generate(self, generation: Generation) -> AsyncGenerator[Chunk | Completion, None]:
        """Chunks as they come, then the completion; closing the iterator aborts the request.

        Raises ContextOverflow, EngineUnavailable, EngineProtocolError.
        """
        prompt = await self._loaded().encode(generation.messages, generation.prefix)
        room_tokens = self.config.context_tokens - len(prompt)
        if room_tokens < 1:
            raise ContextOverflow(len(prompt), self.config.context_tokens)
        sampling = generation.sampling
        fields = sampling_fields(sampling, room_tokens, self.config)
        collected = CollectedOutput(sampling.stop, min(sampling.top_logprobs, self._info.top_logprobs))
        async with aclosing(self._outputs(prompt, cache_salt(generation.cache_scope), fields)) as outputs:
            async for output in outputs:
                chunk = collected.take(output)
                if chunk is not None:
                    yield chunk
        yield collected.completion()

    async def _outputs(
        self, prompt: list[int], salt: str | None, fields: dict[str, Any]
    ) -> AsyncGenerator[Any, None]:
        model, request_id = self._loaded(), uuid.uuid4().hex
        self._running.add(request_id)
        ended = False
        try:
            async with aclosing(model.generate(prompt, salt, fields, request_id)) as outputs:
                while not ended:
                    output = await self._next(outputs)
                    ended = output is None
                    if not ended:
                        yield output
        finally:
            self._running.discard(request_id)
            if not ended:
                # vLLM aborts by itself, unless it is cancelled while it hands the request over.
                await model.abort(request_id)

    async def _next(self, outputs: AsyncGenerator[Any, None]) -> Any | None:
        try:
            async with asyncio.timeout(self.config.stall_timeout_s):
                return await anext(outputs, None)
        except TimeoutError as error:
            raise EngineUnavailable(f"{NAME} sent nothing for {self.config.stall_timeout_s:g} s") from error

    def _loaded(self) -> LoadedModel:
        if self._model is None or not self._model.alive():
            raise EngineUnavailable(f"{NAME} is not running: it was not started, was closed, or died")
        return self._model


def _discard(loading: asyncio.Future[LoadedModel]) -> None:
    if loading.cancelled() or loading.exception() is not None:
        return
    loading.get_loop().run_in_executor(None, loading.result().shutdown)
