"""A reward model over HTTP: vLLM's `POST /pooling`, whole replies or their steps."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Sequence
from typing import Any

import httpx

from backends.engines.base import Message
from backends.engines.openai_wire import refusal
from backends.engines.sse import parse_object, transport_errors
from backends.engines.vllm_wire import cache_salt
from backends.errors import ContextOverflow, EngineProtocolError, EngineUnavailable
from backends.verifiers.base import Rewards
from backends.verifiers.config import RewardConfig


class HttpRewardModel:
    """Scores replies on the server of `config`; at most `config.parallel` requests at once.

    `transport` replaces the network in tests. Every method raises EngineUnavailable (refused, timed out, 5xx,
    wrong key or model), EngineProtocolError (another shape, a score that is no finite number) or
    ContextOverflow (the reply does not fit the reward model).
    """

    def __init__(self, config: RewardConfig, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self.config = config
        self._root = config.base_url.rstrip("/").removesuffix("/v1")
        self._name = f"the reward model {config.model}"
        self._transport = transport
        self._turns = asyncio.Semaphore(config.parallel)
        self._client: httpx.AsyncClient | None = None

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
        self._client = httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(self.config.timeout_s, connect=self.config.connect_timeout_s),
            # The server closes idle connections after 5 s; one must not be picked up just then.
            limits=httpx.Limits(max_connections=None, keepalive_expiry=2.0),
            transport=self._transport,
        )

    async def aclose(self) -> None:
        """Close the connections. May be called twice."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def count_tokens(self, messages: Sequence[Message], reply: str) -> int:
        """Tokens of the conversation with the reply, as the reward model reads them; exact."""
        body = self._body(messages, reply) | {"add_generation_prompt": False}
        count = (await self._post("/tokenize", body)).get("count")
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise EngineProtocolError(f"{self._name} did not tell the size of the prompt")
        return count

    async def rewards(self, messages: Sequence[Message], reply: str, *, cache_scope: str = "") -> Rewards:
        """The scores of a reply's steps, one of the whole for task classify."""
        body = self._body(messages, reply)
        asked = body | {"task": self.config.task, "encoding_format": "float"}
        if cache_scope:
            asked["cache_salt"] = cache_salt(cache_scope)
        answer = await self._post("/pooling", asked)
        try:
            (item,) = answer["data"]
            prompt_tokens = answer["usage"]["prompt_tokens"]
            scores = item["data"]
            rows = [scores] if self.config.task == "classify" else list(scores)
            if self.config.step_token is not None and len(rows) != self._steps(reply):
                rows = await self._at_step_tokens(body, rows, self._steps(reply))
            steps = tuple(_finite(row[self.config.label]) for row in rows)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise EngineProtocolError(f"{self._name} answered with something that is no score") from error
        if not steps or not isinstance(prompt_tokens, int) or prompt_tokens < 1:
            raise EngineProtocolError(f"{self._name} sent no score, or no usage")
        return Rewards(steps, prompt_tokens, self.config.aggregate)

    def _body(self, messages: Sequence[Message], reply: str) -> dict[str, Any]:
        turns = [{"role": m.role, "content": self._without_mark(m.content)} for m in messages]
        turns.append({"role": "assistant", "content": self._marked(reply)})
        return {"model": self.config.model, "messages": turns}

    def _marked(self, reply: str) -> str:
        mark = self.config.step_token
        if mark is None:
            return reply
        return "\n".join(line + mark for line in self._lines(reply))

    def _without_mark(self, text: str) -> str:
        """Nobody but this class may set a mark: its score would stand for a step."""
        return text.replace(self.config.step_token, "") if self.config.step_token else text

    def _lines(self, reply: str) -> list[str]:
        return [line for line in self._without_mark(reply).split("\n") if line.strip()] or [""]

    def _steps(self, reply: str) -> int:
        return len(self._lines(reply))

    async def _at_step_tokens(self, body: dict[str, Any], rows: list[Any], steps: int) -> list[Any]:
        """Rows at the step tokens, of a server that sends one a token. Raises ValueError if none match."""
        told = await self._post(
            "/tokenize", body | {"add_generation_prompt": False, "return_token_strs": True}
        )
        texts = told["token_strs"]
        if len(texts) != len(rows):
            raise ValueError("as many rows as tokens are expected")
        found = [row for text, row in zip(texts, rows, strict=True) if text == self.config.step_token]
        if len(found) != steps:
            raise ValueError("step_token is not one token of the model's")
        return found

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if self._client is None:
            raise EngineUnavailable(f"{self._name} is not connected: start() was not called, or aclose() was")
        async with self._turns:
            with transport_errors(self._name):
                reply = await self._client.post(f"{self._root}{path}", json=body)
        if reply.is_success:
            return parse_object(reply.content, self._name)
        try:
            told: object = parse_object(reply.content, self._name)
        except EngineProtocolError:
            told = None  # a proxy's HTML page; the status says enough
        error = refusal(self._name, reply.status_code, told, 0, 0)
        if isinstance(error, EngineProtocolError) and not isinstance(error, ContextOverflow):
            raise EngineProtocolError(
                f"{error}: is {self.config.task} the server's task (--pooler-config.task)?"
            )
        raise error


def _finite(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("a score is no finite number")
    return float(value)
