"""A request, a reply and its receipt as the pipeline sees them: no HTTP, no Ray."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from backends.engines.base import Message
from backends.task import Progress, Spend, TextDelta
from backends.verifiers.base import VerifySpec

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
CacheMode = Literal["default", "no-cache", "no-store"]
CacheOutcome = Literal["hit", "semantic", "miss", "bypass"]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, known from the key alone. `key_id` is the public name of the key, never the key."""

    tenant: str
    key_id: str


@dataclass(frozen=True, slots=True)
class RouteRequest:
    """A chat completion, parsed and bounded; None means that the caller left it open."""

    request_id: str
    model: str
    messages: tuple[Message, ...]
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    n: int = 1
    effort: Effort | None = None
    strategy: str | None = None
    max_samples: int | None = None
    max_total_tokens: int | None = None
    deadline_s: float | None = None
    min_quality: float | None = None
    allow_degrade: bool | None = None
    verify: VerifySpec | None = None
    progress: bool = False
    cache_mode: CacheMode = "default"
    max_age_s: int | None = None
    trace_id: str | None = None


@dataclass(frozen=True, slots=True)
class LimitState:
    """What the x-ratelimit headers say; None where the tenant has no such limit."""

    limit_requests: int | None = None
    remaining_requests: int | None = None
    reset_requests_s: float | None = None
    limit_tokens: int | None = None
    remaining_tokens: int | None = None
    reset_tokens_s: float | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a request cost and why; `usage.compute` of the reply and the x-acr headers."""

    decision_id: str
    lease_id: str | None
    arms_tried: tuple[str, ...]
    tier: str
    strategy: str
    samples_planned: int
    samples_used: int
    samples_cancelled: int
    stop_reason: str
    confidence: float | None
    difficulty: float | None
    spend: Spend
    charged_tokens: int
    saved_tokens: int
    gpu_seconds: float
    flops: float
    cost_usd: float
    cache: CacheOutcome
    degraded: bool
    verified: bool | None
    reasons: tuple[str, ...]
    policy_version: str
    classifier_version: str
    engine_model: str
    overhead_ms: float
    budget_remaining: int | None
    answer: str | None = None
    hopeless: bool = False
    similarity: float | None = None
    explored: bool = False  # the start was drawn by chance: its reasons say so
    held_back: bool = False  # not told to callers: another moment might have spent more, so it is not kept


@dataclass(frozen=True, slots=True)
class Choice:
    text: str
    finish_reason: str


@dataclass(frozen=True, slots=True)
class Reply:
    """A finished answer. `model` echoes what was asked for; the receipt names the engine's model."""

    id: str
    created_s: int
    model: str
    choices: tuple[Choice, ...]
    receipt: Receipt
    limits: LimitState = field(default_factory=LimitState)


ReplyEvent = TextDelta | Progress | Reply


@dataclass(frozen=True, slots=True)
class ReplyStream:
    """A streamed answer whose refusals have already been raised.

    `events` yields `TextDelta`s (choice 0, in order), `Progress` where it was asked for, and last the
    `Reply`; the deltas joined are its first choice's text. `head` is known before the first token:
    x-acr-policy, x-acr-decision-id and so on.
    """

    id: str
    created_s: int
    model: str
    limits: LimitState
    head: Mapping[str, str]
    events: AsyncIterator[ReplyEvent]


class Service(Protocol):
    """What the HTTP layer needs; `router/pipeline.py` is the real one."""

    def authenticate(self, bearer: str | None) -> Caller:
        """Raise AuthenticationFailed unless the key is known."""
        ...

    async def complete(self, caller: Caller, request: RouteRequest) -> Reply: ...

    async def stream(self, caller: Caller, request: RouteRequest) -> ReplyStream: ...

    async def explain(self, caller: Caller, request: RouteRequest) -> Mapping[str, Any]:
        """What would be done and why; nothing is spent."""
        ...

    async def feedback(self, caller: Caller, decision_id: str, score: float) -> LimitState:
        """Keep what the caller says an answer of its tenant's was worth."""
        ...

    def models(self, caller: Caller) -> tuple[str, ...]: ...

    async def ready(self) -> Mapping[str, str]:
        """Component -> "ok" or what is wrong with it."""
        ...
