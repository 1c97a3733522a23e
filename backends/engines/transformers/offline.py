"""Big plain batches for offline work: every call that waits joins the batch that is running.

Recording outcome tables takes thousands of completions, and nobody waits for one of them. On a CPU one big
batch is several times quicker than the engines that serve, since its matrix products are large. It has no
prefix cache between calls, so it does not serve.
"""

from __future__ import annotations

import asyncio
import queue
import random
import threading
from collections.abc import AsyncGenerator, Sequence
from functools import partial

from backends.engines.base import Chunk, Completion, EngineInfo, Generation, Message
from backends.engines.config import TransformersConfig
from backends.engines.transformers.attention import use_grouped_attention
from backends.engines.transformers.batch import Batch, Draw, Row
from backends.engines.transformers.engine import model_name
from backends.engines.transformers.loading import Loaded, load
from backends.engines.transformers.prompts import PromptEncoder
from backends.engines.transformers.reply import Reply
from backends.errors import ContextOverflow, EngineError, EngineUnavailable

JOIN_SHARE = 0.3  # of the batch must be free before waiting calls are let in


class _Call(Row):
    """A row of the batch, and the way back to whoever waits for it."""

    def __init__(self, prompt: tuple[int, ...], draw: Draw) -> None:
        super().__init__(prompt, draw)
        self.loop = asyncio.get_running_loop()
        self.events: asyncio.Queue[EngineError | None] = asyncio.Queue()

    def tell(self, event: EngineError | None) -> None:
        try:
            self.loop.call_soon_threadsafe(self.events.put_nowait, event)
        except RuntimeError:  # its event loop has ended
            self.gone = True


class OfflineEngine:
    """A transformers model decoded in one batch of up to `config.parallel` sequences.

    Log-probabilities are the model's own, before temperature and top_p. A seed repeats a completion as far as
    the sums of a batch of another make-up allow. Stop strings are found a step late; that token is not told.
    """

    def __init__(self, config: TransformersConfig) -> None:
        self._config = config
        self._waiting: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loaded: Loaded | None = None
        self._prompts: PromptEncoder | None = None
        self._batch: Batch[_Call] | None = None

    @property
    def info(self) -> EngineInfo:
        return EngineInfo(
            model=model_name(self._config),
            context_tokens=self._config.context_tokens,
            parallel=self._config.parallel,
        )

    async def start(self) -> None:
        """Load the model. Raises ModelFileError."""
        if self._config.threads is not None:
            import torch

            torch.set_num_threads(self._config.threads)
        self._loaded = await asyncio.to_thread(load, self._config)
        if self._loaded.device == "cpu":
            use_grouped_attention(self._loaded.model)
        self._prompts = PromptEncoder(self._loaded.tokenizer)
        self._batch = Batch(self._loaded.model, self._loaded.ends)
        self._thread = threading.Thread(target=self._work, name="offline-batch", daemon=True)
        self._thread.start()

    async def aclose(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None and self._prompts is not None:
            self._prompts.close()
            self._waiting.put(None)
            await asyncio.to_thread(thread.join)

    async def healthy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    @property
    def active(self) -> int:
        """Sequences in the batch right now."""
        return 0 if self._batch is None else len(self._batch.rows)

    async def count_prompt_tokens(self, messages: Sequence[Message], prefix: str = "") -> int:
        return len(await self._encode(messages, prefix))

    async def generate(self, generation: Generation) -> AsyncGenerator[Chunk | Completion, None]:
        """Chunks as they come, then the completion. Raises ContextOverflow, EngineUnavailable."""
        sampling = generation.sampling
        prompt = await self._encode(generation.messages, generation.prefix)
        loaded, room = self._loaded, self._config.context_tokens - len(prompt)
        if room < 1:
            raise ContextOverflow(len(prompt), self._config.context_tokens)
        if loaded is None or not await self.healthy():
            raise _down()
        decode = partial(loaded.tokenizer.decode, skip_special_tokens=True)
        reply = Reply(decode, loaded.ends, prompt, sampling.stop)
        rng, limit = random.Random(sampling.seed), min(sampling.max_tokens, room)
        call = _Call(prompt, Draw(limit, sampling.temperature, sampling.top_p, rng))
        self._waiting.put(call)
        try:
            while not (call.ended and reply.tokens == len(call.tokens)) and not reply.stopped:
                if (error := await call.events.get()) is not None:
                    raise error
                if text := reply.take(call.tokens[: reply.tokens + 1]):
                    yield Chunk(text, reply.tokens)
        finally:
            call.gone = True
        if text := reply.flush():
            yield Chunk(text, reply.tokens)
        yield reply.completion(call.logprobs[: reply.tokens], 0)

    async def _encode(self, messages: Sequence[Message], prefix: str) -> tuple[int, ...]:
        if self._prompts is None:
            raise _down()
        return await self._prompts.encode(messages, prefix)

    def _work(self) -> None:
        """The thread: let calls in, give every sequence a token, tell their callers; until it is closed."""
        batch = self._batch
        assert batch is not None  # noqa: S101  start() has made it
        failure: EngineError = _down()
        try:
            while (fresh := self._fresh(len(batch.rows))) is not None:
                batch.join(fresh)
                for call in batch.step():
                    call.tell(None)
        except Exception as error:  # a thread has nobody to raise to: its callers are told instead
            failure = EngineUnavailable(f"the batch failed: {error}")
            raise
        finally:
            for call in [*batch.rows, *_drained(self._waiting)]:
                call.tell(failure)

    def _fresh(self, running: int) -> list[_Call] | None:
        """The calls that join now, None to end; waits for one where nothing runs.

        Newcomers are let in together, once a good part of the batch is free: calls with the same prompt then
        share its computation, and the batch is not held up by one small prefill a step.
        """
        free = self._config.parallel - running
        fresh: list[_Call] = []
        if running and free < self._config.parallel * JOIN_SHARE:
            return fresh
        while len(fresh) < free:
            try:
                call = self._waiting.get(block=not running and not fresh)
            except queue.Empty:
                break
            if call is None:
                return None
            if not call.gone:
                fresh.append(call)
        return fresh


def _drained(waiting: queue.SimpleQueue[_Call | None]) -> list[_Call]:
    calls: list[_Call] = []
    while not waiting.empty():
        if (call := waiting.get()) is not None:
            calls.append(call)
    return calls


def _down() -> EngineUnavailable:
    return EngineUnavailable("the offline engine is not running: start() was not called, or aclose() was")
