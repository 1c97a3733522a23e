"""transformers' continuous batching in this process: any model of the hub, on a GPU or on the CPU."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from backends.engines.base import Chunk, Completion, EngineInfo, Generation, Message, Sampling
from backends.engines.config import TransformersConfig
from backends.engines.transformers.batcher import NAME, Batcher
from backends.engines.transformers.loading import Loaded, load
from backends.engines.transformers.prompts import PromptEncoder
from backends.engines.transformers.reply import Reply
from backends.errors import ContextOverflow, EngineUnavailable, StrategyUnsupported
from backends.models import DEFAULT_MODEL

COLDEST = 1e-3  # a temperature below it is greedy: the logits divided by it would overflow
ALL_TOKENS = 2**30  # a top_k beyond any vocabulary; the manager takes 0 for 1


@dataclass(frozen=True, slots=True)
class _Running:
    loaded: Loaded
    prompts: PromptEncoder
    batcher: Batcher


class TransformersEngine:
    """Runs one model; at most `config.parallel` completions at once, the rest wait in order.

    - Temperature and top_p are per request, and temperature 0 is truly greedy. **Seeds have no effect**: the
      manager draws for a whole batch from one stream of random numbers (`info.seeds` is False).
    - Log-probabilities are those of the tokens that were drawn, under the model's own distribution (before
      temperature and top_p); alternatives are not told.
    - Stop strings are found here. The step that runs meanwhile still generates a token, which is counted.
    - Prompts share computed blocks of 16 tokens with prompts that were computed before, so the first of N
      samples must have its first token before the others start. There is no salt: tenants share the cache,
      and a fast first token can tell one what another has asked (`cache_scope` has no effect here).
      `share_prefixes: false` ends that, and all sharing with it.
    """

    def __init__(self, config: TransformersConfig) -> None:
        self.config = config
        self._info = EngineInfo(
            model=config.served_model_name or model_name(config),
            context_tokens=config.context_tokens,
            logprobs=config.logprobs,
            seeds=False,
            parallel=config.parallel,
        )
        self._slots = asyncio.Semaphore(config.parallel)
        self._running: _Running | None = None

    @property
    def info(self) -> EngineInfo:
        """`settings` is filled in by `start()`, which finds out what "auto" comes to."""
        return self._info

    async def start(self) -> None:
        """Load the model (seconds to minutes, in a thread). Raises ModelFileError, EngineUnavailable."""
        if self._running is not None:
            return
        loading = asyncio.ensure_future(asyncio.to_thread(_load, self.config))
        try:
            loaded, batcher, settings = await asyncio.shield(loading)
        except asyncio.CancelledError:
            # The thread cannot be stopped; what it loads must still be freed, off the event loop.
            loading.add_done_callback(_discard)
            raise
        batcher.start()
        self._info = replace(self._info, settings=settings)
        self._running = _Running(loaded, PromptEncoder(loaded.tokenizer), batcher)

    async def aclose(self) -> None:
        """End the manager's thread; running generations end with EngineUnavailable. May be called twice."""
        running, self._running = self._running, None
        if running is not None:
            running.prompts.close()
            await running.batcher.stop()

    async def healthy(self) -> bool:
        """Whether the manager's thread is alive and takes requests."""
        return self._running is not None and self._running.batcher.alive()

    @property
    def active(self) -> int:
        """How many requests the manager works on right now."""
        return self._started().batcher.active

    @property
    def forward_tokens(self) -> int:
        """Tokens the model has computed since the start, of prompts and completions."""
        return self._started().batcher.forward_tokens

    async def count_prompt_tokens(self, messages: Sequence[Message], prefix: str = "") -> int:
        """Tokens of the templated prompt with `prefix` after it; exact."""
        return len(await self._started().prompts.encode(messages, prefix))

    async def generate(self, generation: Generation) -> AsyncGenerator[Chunk | Completion, None]:
        """Chunks as they come, then the completion; closing the iterator frees its blocks within a step.

        Raises ContextOverflow, EngineUnavailable, EngineProtocolError, and StrategyUnsupported for what this
        engine cannot draw.
        """
        running, sampling = self._started(), generation.sampling
        drawn = _arguments(sampling)
        prompt = await running.prompts.encode(generation.messages, generation.prefix)
        room_tokens = self.config.context_tokens - len(prompt)
        if room_tokens < 1:
            raise ContextOverflow(len(prompt), self.config.context_tokens)
        decode = partial(running.loaded.tokenizer.decode, skip_special_tokens=True)
        reply = Reply(decode, running.loaded.ends, prompt, sampling.stop)
        async with self._slots:
            request = running.batcher.submit(prompt, min(sampling.max_tokens, room_tokens), drawn)
            try:
                last = False
                while not last:
                    output, last = await request.next(self.config.stall_timeout_s)
                    if text := reply.take(output.generated_tokens):
                        yield Chunk(text, reply.tokens)
                    if reply.stopped:
                        request.cancel()
            finally:
                request.cancel()
        if text := reply.flush():
            yield Chunk(text, reply.tokens)
        yield reply.completion(output.logprobs, request.cached_tokens)

    def _started(self) -> _Running:
        if self._running is None:
            raise EngineUnavailable(f"{NAME} is not running: start() was not called, or aclose() was")
        return self._running


def _arguments(sampling: Sampling) -> dict[str, Any]:
    """The manager's per-request arguments; top_k 1 stands for greedy. Raises StrategyUnsupported."""
    temperature, top_p = float(sampling.temperature), float(sampling.top_p)
    if sampling.top_logprobs:
        raise StrategyUnsupported(f"{NAME} tells no alternatives to a token: leave top_logprobs at 0")
    if not (0 <= temperature < math.inf and 0 <= top_p <= 1 and sampling.max_tokens >= 1):
        raise StrategyUnsupported(
            f"{NAME} draws at least one token, with a temperature of 0 or more and top_p between 0 and 1"
        )
    if temperature < COLDEST:
        return {"temperature": 1.0, "top_k": 1, "top_p": 1.0}
    return {"temperature": temperature, "top_k": ALL_TOKENS, "top_p": top_p}


def _load(config: TransformersConfig) -> tuple[Loaded, Batcher, dict[str, str]]:
    if config.threads is not None:
        import torch

        torch.set_num_threads(config.threads)
    loaded = load(config)
    from backends.engines.transformers.manager import make_manager, shares_prefixes

    try:
        manager = make_manager(loaded, config)
    except (ValueError, RuntimeError, MemoryError) as error:
        raise EngineUnavailable(f"{NAME} could not start: {error}") from error
    settings = {
        "device": loaded.device,
        "dtype": loaded.dtype,
        "quantization": loaded.quantisation,
        "attention": loaded.attention,
        "prefix_caching": "on" if shares_prefixes(manager) else "off",
        "speculative_decoding": "off",
        "tensor_parallel_size": "1",
    }
    return loaded, Batcher(manager), settings


def model_name(config: TransformersConfig) -> str:
    if config.model is None:
        return DEFAULT_MODEL
    if config.gguf_path is not None:
        return config.gguf_path.stem
    path = Path(config.model).expanduser()
    return path.name if path.is_dir() else config.model


def _discard(loading: asyncio.Future[tuple[Loaded, Batcher, dict[str, str]]]) -> None:
    if loading.cancelled() or loading.exception() is not None:
        return
    _, batcher, _ = loading.result()
    loading.get_loop().run_in_executor(None, batcher.release)
