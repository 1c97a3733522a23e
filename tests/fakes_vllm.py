"""A loaded vLLM that is a script: the outputs it sends, what it was asked, and whether it was stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from types import SimpleNamespace
from typing import Any

from backends.engines.base import Message

PROMPT = [1, 2, 3, 4]


def place(*tokens: tuple[int, float, str]) -> dict[int, Any]:
    """The alternatives of one place, the token that was drawn first."""
    return {
        token: SimpleNamespace(logprob=logprob, decoded_token=text, rank=rank)
        for rank, (token, logprob, text) in enumerate(tokens, 1)
    }


def output(
    text: str,
    tokens: Sequence[int] = (7,),
    finish: str | None = None,
    stop: int | str | None = None,
    logprobs: list[dict[int, Any]] | None = None,
    cached: int | None = 0,
) -> Any:
    """A `RequestOutput` that holds what is new since the last one."""
    piece = SimpleNamespace(
        text=text, token_ids=list(tokens), logprobs=logprobs, finish_reason=finish, stop_reason=stop
    )
    return SimpleNamespace(outputs=[piece], prompt_token_ids=PROMPT, num_cached_tokens=cached)


class ScriptedVLLM:
    """Plays `script`: outputs are sent, exceptions raised; after the last one it waits for an abort."""

    def __init__(self, *script: Any, prompt: list[int] = PROMPT) -> None:
        self.script = script
        self.prompt = prompt
        self.asked: list[dict[str, Any]] = []
        self.aborted: list[str] = []
        self.is_alive = True
        self.shutdowns = 0
        self.ready_error: BaseException | None = None
        self.hand_over: asyncio.Event | None = None
        self._end = asyncio.Event()

    async def ready(self) -> None:
        if self.ready_error is not None:
            raise self.ready_error

    def alive(self) -> bool:
        return self.is_alive

    async def encode(self, messages: Sequence[Message], prefix: str) -> list[int]:
        return self.prompt + [9] * len(prefix.split())

    async def generate(
        self, prompt: list[int], salt: str | None, fields: dict[str, Any], request_id: str
    ) -> AsyncGenerator[Any, None]:
        self.asked.append({"prompt": prompt, "salt": salt, "fields": fields, "id": request_id})
        if self.hand_over is not None:
            await self.hand_over.wait()
        for step in self.script:
            if isinstance(step, BaseException):
                raise step
            yield step
            if step.outputs[0].finish_reason is not None:
                return
        await self._end.wait()
        yield output("", (), "abort")

    async def abort(self, request_id: str) -> None:
        self.aborted.append(request_id)
        self._end.set()

    def shutdown(self) -> None:
        self.shutdowns += 1
        self.is_alive = False
