"""llama.cpp's own server in this process (`xllamacpp`): continuous batching, prompt cache, exact counts.

The server listens on a free port of 127.0.0.1 behind a key made at start, so that other users of the host
cannot use it. Its native endpoints are spoken (`/apply-template`, `/tokenize`, `/completion`), because they
tell computed, cached and generated tokens and the stop string that ended a completion.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx

from backends.engines.base import Chunk, Completion, EngineInfo, Generation, Message
from backends.engines.config import LlamaCppConfig
from backends.engines.llamacpp_settings import told_settings
from backends.engines.llamacpp_wire import (
    NAME,
    TOP_LOGPROBS,
    completion,
    completion_body,
    load_server,
    refusal,
)
from backends.engines.sse import parse_object, read_events, transport_errors
from backends.errors import EngineProtocolError, EngineUnavailable, ModelFileError
from backends.models import DEFAULT_MODEL, default_model_path

Messages = tuple[Message, ...]

RENDERED_PROMPTS_KEPT = 128
MIN_SHARED_TOKENS = 32  # below this, prefill is cheaper than sharing
MAX_COMPLETION_TO_PROMPT = 3  # the server's cache drops entries of which less than a quarter is prompt


class LlamaCppEngine:
    """Runs one GGUF model; at most `config.parallel` completions at once, the rest wait in order.

    Prefixes, seeds and log-probabilities are supported; counts are exact. There is no cache salt: tenants
    share the prompt cache, so `cache_scope` has no effect here.
    """

    def __init__(self, config: LlamaCppConfig) -> None:
        self.config = config
        named = Path(config.model_path).stem if config.model_path else DEFAULT_MODEL
        self._info = EngineInfo(
            model=config.model or named,
            context_tokens=config.context_tokens,
            logprobs=config.tells_logprobs,
            top_logprobs=TOP_LOGPROBS if config.tells_logprobs else 0,
            parallel=config.parallel,
            settings=told_settings(config),
        )
        self._slots = asyncio.Semaphore(config.parallel)
        self._sharing = asyncio.Lock()
        self._unshared: set[Messages] = set()
        self._rendered: OrderedDict[Messages, str] = OrderedDict()
        self._server: list[Any] = []  # holds the one server, so that a thread can drop the last reference
        self._client: httpx.AsyncClient | None = None

    @property
    def info(self) -> EngineInfo:
        return self._info

    async def start(self) -> None:
        """Load the model (seconds, in a thread). Raises ModelFileError, EngineUnavailable."""
        if self._client is not None:
            return
        named = self.config.model_path
        path = Path(named) if named else await asyncio.to_thread(default_model_path)
        files = {"model_path": path}
        if self.config.draft_model_path is not None:
            files["draft_model_path"] = Path(self.config.draft_model_path)
        for field, file in files.items():
            if not file.is_file():
                raise ModelFileError(f"there is no model file at {file}: correct {field}")
        key = secrets.token_urlsafe(32)
        loading = asyncio.ensure_future(asyncio.to_thread(load_server, self.config, path, key))
        try:
            server = await asyncio.shield(loading)
        except asyncio.CancelledError:
            # The thread cannot be stopped; what it loads must still be freed, off the event loop.
            loading.add_done_callback(_discard)
            raise
        except RuntimeError as error:
            raise EngineUnavailable(f"{NAME} could not load {path.name}: {error}") from error
        self._server.append(server)
        self._client = httpx.AsyncClient(
            base_url=server.listening_address,
            headers={"Authorization": f"Bearer {key}"},
            timeout=httpx.Timeout(self.config.stall_timeout_s, connect=10.0),
            # The server closes a connection after a streamed reply although it announces keep-alive.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            trust_env=False,
        )
        await self._check_context()

    async def aclose(self) -> None:
        """Stop the server; running generations end with EngineUnavailable. May be called twice."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()
        await asyncio.to_thread(self._server.clear)

    async def healthy(self) -> bool:
        """Whether the server answers within two seconds."""
        if self._client is None:
            return False
        try:
            return (await self._client.get("/health", timeout=2.0)).is_success
        except httpx.HTTPError:
            return False

    async def busy_slots(self) -> int:
        """How many of the server's slots generate right now."""
        return sum(bool(slot.get("is_processing")) for slot in await self._read_slots())

    async def count_prompt_tokens(self, messages: Sequence[Message], prefix: str = "") -> int:
        """Tokens of the templated prompt with `prefix` after it; exact."""
        text = await self._render(tuple(messages)) + prefix
        reply = await self._post("/tokenize", {"content": text, "add_special": True, "parse_special": True})
        tokens = reply.get("tokens")
        if not isinstance(tokens, list):
            raise EngineProtocolError(f"{NAME} returned no token list")
        return len(tokens)

    async def generate(self, generation: Generation) -> AsyncGenerator[Chunk | Completion, None]:
        """Chunks as they come, then the completion; closing the iterator frees the slot within a token."""
        prompt = await self._render(generation.messages) + generation.prefix
        body = completion_body(prompt, generation.sampling, self.config.tells_logprobs)
        async with self._slots:
            await self._share(generation.messages)
            async with aclosing(self._events(body)) as events:
                texts: list[str] = []
                told: list[Any] = []
                async for event in events:
                    text, tokens = event.get("content"), event.get("tokens_predicted")
                    if not isinstance(text, str) or not isinstance(tokens, int):
                        raise EngineProtocolError(f"{NAME} sent an event without text or token count")
                    if text:
                        texts.append(text)
                        yield Chunk(text, tokens)
                    told += event.get("completion_probabilities", ())
                    if event.get("stop"):
                        done = completion("".join(texts), event, told, generation.sampling.top_logprobs)
                        self._remember(generation.messages, done)
                        yield done
                        return
        raise EngineProtocolError(f"{NAME} ended the stream before the completion was over")

    async def _share(self, messages: Messages) -> None:
        # The server copies an idle slot's prompt to the cache, where other slots find it, only after the
        # next request has chosen its slot. So before the first follower of a prompt, one token is generated
        # for nothing: without it the follower prefills the whole prompt again.
        async with self._sharing:
            if messages in self._unshared:
                await self._post("/completion", {"prompt": ".", "n_predict": 1})
            self._unshared.clear()  # every request makes the server copy what its idle slots hold

    def _remember(self, messages: Messages, done: Completion) -> None:
        worth = done.prompt_tokens >= MIN_SHARED_TOKENS
        findable = done.completion_tokens <= MAX_COMPLETION_TO_PROMPT * done.prompt_tokens
        if worth and findable and self.config.shares_prompts:
            self._unshared.add(messages)

    def _running(self) -> httpx.AsyncClient:
        if self._client is None:
            raise EngineUnavailable(f"{NAME} is not running: start() was not called, or aclose() was")
        return self._client

    async def _check_context(self) -> None:
        held = min(int(slot["n_ctx"]) for slot in await self._read_slots())
        if held < self.config.context_tokens:
            await self.aclose()
            raise ModelFileError(
                f"the model's context holds {held} tokens: set context_tokens to that or less"
            )

    async def _read_slots(self) -> list[dict[str, Any]]:
        with transport_errors(NAME):
            reply = await self._running().get("/slots")
        slots = reply.json() if reply.is_success else None
        if not isinstance(slots, list):
            raise EngineProtocolError(f"{NAME} did not tell the state of its slots")
        return slots

    async def _render(self, messages: Messages) -> str:
        text = self._rendered.get(messages)
        if text is None:
            turns = [{"role": message.role, "content": message.content} for message in messages]
            text = (await self._post("/apply-template", {"messages": turns})).get("prompt")
            if not isinstance(text, str):
                raise EngineProtocolError(f"{NAME} returned no templated prompt")
            self._rendered[messages] = text
            if len(self._rendered) > RENDERED_PROMPTS_KEPT:
                self._rendered.popitem(last=False)
        else:
            self._rendered.move_to_end(messages)
        return text

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        with transport_errors(NAME):
            reply = await self._running().post(path, json=body)
        parsed = parse_object(reply.content, NAME)
        if not reply.is_success:
            raise refusal(reply.status_code, parsed)
        return parsed

    async def _events(self, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        with transport_errors(NAME):
            async with self._running().stream("POST", "/completion", json=body) as reply:
                if not reply.is_success:
                    raise refusal(reply.status_code, parse_object(await reply.aread(), NAME))
                async with aclosing(read_events(reply.aiter_bytes(), NAME)) as events:
                    async for event in events:
                        if "error" in event:
                            raise refusal(500, event)
                        yield event


def _discard(loading: asyncio.Future[Any]) -> None:
    if loading.cancelled() or loading.exception() is not None:
        return
    server = [loading.result()]
    loading.get_loop().run_in_executor(None, server.clear)
