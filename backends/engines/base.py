"""The engine seam: what generates tokens, and what every engine must tell about it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of the conversation; text only."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one completion is drawn; `temperature` 0 is greedy.

    `top_logprobs` asks for the most likely alternatives of every token too (at most `info.top_logprobs`).
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    top_logprobs: int = 0


@dataclass(frozen=True, slots=True)
class Generation:
    """One engine call.

    `prefix` is the start of the assistant's reply, which the engine continues (tree search resubmits
    nodes so); the completion holds only what comes after it. `cache_scope` keeps tenants from sharing
    a prefix cache, on engines that can salt it.
    """

    messages: tuple[Message, ...]
    sampling: Sampling
    prefix: str = ""
    cache_scope: str = ""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a completion as it is generated; `completion_tokens` counts from its start."""

    text: str
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Completion:
    """The end of a completion, with the engine's own counts.

    `prompt_tokens` includes `cached_tokens` (served from the prefix cache, not computed).
    `logprobs` are natural logs, one per completion token, empty where the engine gives none; `top_logprobs`
    are those of the likeliest tokens at each place, in falling order, where they were asked for, and
    `top_tokens` their texts, where the engine tells them.
    `stop_string` is the caller's stop string that ended it, which the text does not contain;
    `finish` is "stop" for that and for the model's own end, "length" for max_tokens.
    """

    text: str
    finish: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    stop_string: str | None = None
    logprobs: tuple[float, ...] = field(default=())
    top_logprobs: tuple[tuple[float, ...], ...] = field(default=())
    top_tokens: tuple[tuple[str, ...], ...] = field(default=())


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine is and can do; strategies check it before they spend anything.

    `tells_stop`: `Completion.stop_string` is set whenever a stop string ended the completion.
    `top_logprobs` is the most alternatives a token that it tells, 0 for none. `settings` is what the engine
    was started with and operators ask about: speculative decoding, quantisation, prefix caching, parallelism.
    """

    model: str
    context_tokens: int
    continues_prefix: bool = True
    logprobs: bool = True
    seeds: bool = True
    exact_prompt_count: bool = True
    parallel: int = 1
    tells_stop: bool = True
    top_logprobs: int = 0
    settings: Mapping[str, str] = field(default_factory=dict)


@runtime_checkable
class Engine(Protocol):
    """Generates text. One instance per replica, used from one event loop.

    `generate` yields chunks and, last, exactly one `Completion`. Closing the iterator early (or
    cancelling the task) stops the generation on the engine. It raises `ContextOverflow`,
    `EngineUnavailable` or `EngineProtocolError`, never a library's own error.
    """

    @property
    def info(self) -> EngineInfo: ...

    async def start(self) -> None: ...

    async def aclose(self) -> None: ...

    async def healthy(self) -> bool: ...

    async def count_prompt_tokens(self, messages: Sequence[Message], prefix: str = "") -> int:
        """Tokens of the templated prompt: exact, or an upper bound (`info.exact_prompt_count`)."""
        ...

    def generate(self, generation: Generation) -> AsyncGenerator[Chunk | Completion, None]: ...
