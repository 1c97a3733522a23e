"""Any OpenAI-compatible server as an engine: vLLM, llama-server, or a provider's API."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import httpx

from backends.engines.base import Chunk, Completion, EngineInfo, Generation, Message
from backends.engines.config import OpenAIHTTPConfig
from backends.engines.openai_wire import StreamedCompletion, chat_body, chat_messages, prompt_bound, refusal
from backends.engines.sse import parse_object, read_events, transport_errors
from backends.errors import EngineProtocolError, EngineUnavailable, StrategyUnsupported


class OpenAIHTTPEngine:
    """Streams chat completions from `config.base_url`.

    What it can do follows from the dialect (see OpenAIHTTPConfig). Where a server does not tell which stop
    string ended a completion, `stop_string` is None. `transport` replaces the network in tests.
    """

    def __init__(self, config: OpenAIHTTPConfig, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self.config = config
        own = config.dialect != "openai"
        self._info = EngineInfo(
            model=config.model,
            context_tokens=config.context_tokens,
            continues_prefix=own,
            logprobs=config.wants_logprobs,
            seeds=own,
            exact_prompt_count=own,
            parallel=config.parallel,
            tells_stop=config.dialect == "vllm",
            top_logprobs=config.most_top_logprobs,
            settings=config.settings,
        )
        self._base = config.base_url.rstrip("/")
        self._root = self._base.removesuffix("/v1")
        self._transport = transport
        self._client: httpx.AsyncClient | None = None

    @property
    def info(self) -> EngineInfo:
        return self._info

    async def start(self) -> None:
        """Read the key and open the client; the server is not asked. Raises EngineUnavailable."""
        if self._client is not None:
            return
        headers = {}
        if self.config.api_key_env is not None:
            key = os.environ.get(self.config.api_key_env)
            if not key:
                raise EngineUnavailable(
                    f"the environment variable {self.config.api_key_env} holds no API key"
                )
            headers["Authorization"] = f"Bearer {key}"
        # llama-server closes a connection after a streamed reply although it announces keep-alive; the
        # others close idle ones after 5 s, so a connection must not be picked up just then.
        idle = 0 if self.config.dialect == "llamacpp" else self.config.parallel
        self._client = httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(self.config.stall_timeout_s, connect=self.config.connect_timeout_s),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=idle, keepalive_expiry=2.0),
            transport=self._transport,
        )

    async def aclose(self) -> None:
        """Close the connections. May be called twice."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def healthy(self) -> bool:
        """Whether the server lists its models within two seconds."""
        if self._client is None:
            return False
        try:
            return (await self._client.get(f"{self._base}/models", timeout=2.0)).is_success
        except httpx.HTTPError:
            return False

    async def count_prompt_tokens(self, messages: Sequence[Message], prefix: str = "") -> int:
        """Tokens of the templated prompt: asked of the server, or bounded by its bytes (dialect openai)."""
        if self.config.dialect == "openai":
            return prompt_bound(messages, prefix, self.config.template_tokens)
        body = chat_messages(messages, prefix)
        if self.config.dialect == "vllm":
            count = (await self._post("/tokenize", {"model": self.config.model, **body}, messages)).get(
                "count"
            )
        else:
            text = (await self._post("/apply-template", body, messages)).get("prompt")
            asked = {"content": text, "add_special": True, "parse_special": True}
            tokens = (await self._post("/tokenize", asked, messages)).get("tokens")
            count = len(tokens) if isinstance(tokens, list) else None
        if not isinstance(count, int) or count < 1:
            raise EngineProtocolError(f"{self._name} did not tell the size of the prompt")
        return count

    async def generate(self, generation: Generation) -> AsyncGenerator[Chunk | Completion, None]:
        """Chunks as they come, then the completion; closing the iterator closes the connection.

        Raises StrategyUnsupported for a prefix that the dialect cannot continue.
        """
        if generation.prefix and not self._info.continues_prefix:
            raise StrategyUnsupported(f"{self._name} cannot continue a started answer: set its dialect")
        wanted = min(generation.sampling.top_logprobs, self._info.top_logprobs)
        collected = StreamedCompletion(self._name, generation.sampling.stop, wanted)
        async with aclosing(self._events(generation)) as events:
            async for event in events:
                chunk = collected.take(event)
                if chunk is not None:
                    yield chunk
        yield collected.completion()

    @property
    def _name(self) -> str:
        return f"the server of {self.config.model}"

    def _running(self) -> httpx.AsyncClient:
        if self._client is None:
            raise EngineUnavailable(f"{self._name} is not connected: start() was not called, or aclose() was")
        return self._client

    async def _events(self, generation: Generation) -> AsyncGenerator[dict[str, Any], None]:
        url, body = f"{self._base}/chat/completions", chat_body(self.config, generation)
        with transport_errors(self._name):
            async with self._running().stream("POST", url, json=body) as reply:
                await self._check(reply, generation.messages)
                async with aclosing(read_events(reply.aiter_bytes(), self._name)) as events:
                    async for event in events:
                        if "error" in event and not event.get("choices"):
                            raise refusal(self._name, 500, event, 0, self.config.context_tokens)
                        yield event

    async def _post(self, path: str, body: dict[str, Any], messages: Sequence[Message]) -> dict[str, Any]:
        with transport_errors(self._name):
            reply = await self._running().post(f"{self._root}{path}", json=body)
            await self._check(reply, messages)
        return parse_object(reply.content, self._name)

    async def _check(self, reply: httpx.Response, messages: Sequence[Message]) -> None:
        if reply.is_success:
            return
        content = await reply.aread()
        try:
            body: object = parse_object(content, self._name)
        except EngineProtocolError:
            body = None  # a proxy's HTML page; the status says enough
        bound = prompt_bound(messages, "", self.config.template_tokens)
        raise refusal(self._name, reply.status_code, body, bound, self.config.context_tokens)
