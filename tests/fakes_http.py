"""A scripted Service: what each test wants to happen, and what it saw."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from backends.task import Progress, Spend, TextDelta
from router.errors import AuthenticationFailed
from router.request import (
    Caller,
    Choice,
    LimitState,
    Receipt,
    Reply,
    ReplyEvent,
    ReplyStream,
    RouteRequest,
)

KEY = "sk-test-1"
CALLER = Caller("tenant-a", "key-1")

SPEND = Spend(
    prompt_computed=40,
    prompt_cached=24,
    completion_kept=10,
    completion_discarded=20,
    verifier=6,
    calls=4,
)
RECEIPT = Receipt(
    decision_id="dec-1",
    lease_id="lease-1",
    arms_tried=("direct", "consistency/sc8"),
    tier="consistency",
    strategy="self_consistency",
    samples_planned=8,
    samples_used=3,
    samples_cancelled=1,
    stop_reason="confident",
    confidence=0.9375,
    difficulty=0.5,
    spend=SPEND,
    charged_tokens=SPEND.total,
    saved_tokens=0,
    gpu_seconds=0.25,
    flops=1e9,
    cost_usd=0.001,
    cache="miss",
    degraded=False,
    verified=None,
    reasons=("cheapest arm that meets 0.9",),
    policy_version="p1",
    classifier_version="c1",
    engine_model="model-x",
    overhead_ms=1.5,
    budget_remaining=900,
    answer="4",
)
LIMITS = LimitState(100, 99, 0.6, 10_000, 9_900, 0.25)
REPLY = Reply("chatcmpl-1", 1_700_000_000, "auto", (Choice("2 + 2 is 4", "stop"),), RECEIPT, LIMITS)
HEAD = {"x-acr-policy": "p1", "x-acr-decision-id": "dec-1"}

# A script step: an event to yield, an error to raise, or something to wait for.
Step = ReplyEvent | BaseException | Callable[[], Awaitable[object]]

DELTAS: tuple[Step, ...] = (TextDelta("2 + 2"), TextDelta(" is"), TextDelta(" 4"), REPLY)


class ScriptedEvents:
    """Plays a script as ReplyStream.events; remembers whether and how it was closed."""

    def __init__(self, steps: tuple[Step, ...], clean_up: Callable[[], Awaitable[object]] | None) -> None:
        self._steps = list(steps)
        self._clean_up = clean_up
        self.closed = asyncio.Event()
        self.cancelled = False
        self.settled = False

    def __aiter__(self) -> AsyncIterator[ReplyEvent]:
        return self

    async def __anext__(self) -> ReplyEvent:
        while self._steps:
            step = self._steps.pop(0)
            if isinstance(step, BaseException):
                raise step
            if isinstance(step, TextDelta | Progress | Reply):
                return step
            try:
                await step()
            except asyncio.CancelledError:
                self.cancelled = True
                raise
        raise StopAsyncIteration

    async def aclose(self) -> None:
        if self.closed.is_set():
            return
        if self._clean_up is not None:
            await self._clean_up()
        self.settled = True
        self.closed.set()


@dataclass
class ScriptedService:
    """Answers with `reply`, or fails with `error`; `before` is awaited first, where a test wants to wait."""

    reply: Reply = REPLY
    error: BaseException | None = None
    steps: tuple[Step, ...] = DELTAS
    before: Callable[[], Awaitable[object]] | None = None
    clean_up: Callable[[], Awaitable[object]] | None = None
    components: Mapping[str, str] = field(default_factory=lambda: {"store": "ok", "tiers": "ok"})
    explanation: Mapping[str, Any] = field(default_factory=lambda: {"arm": "direct"})
    seen: list[RouteRequest] = field(default_factory=list)
    streams: list[ScriptedEvents] = field(default_factory=list)
    explained: list[RouteRequest] = field(default_factory=list)
    judged: list[tuple[Caller, str, float]] = field(default_factory=list)
    called: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: int = 0

    async def feedback(self, caller: Caller, decision_id: str, score: float) -> LimitState:
        self.judged.append((caller, decision_id, score))
        if self.error is not None:
            raise self.error
        return LIMITS

    def authenticate(self, bearer: str | None) -> Caller:
        if bearer != KEY:
            raise AuthenticationFailed("Send a known API key as Authorization: Bearer KEY.")
        return CALLER

    async def _act(self, request: RouteRequest) -> None:
        self.seen.append(request)
        self.called.set()
        if self.before is not None:
            try:
                await self.before()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        if self.error is not None:
            raise self.error

    async def complete(self, caller: Caller, request: RouteRequest) -> Reply:
        await self._act(request)
        return replace(self.reply, model=request.model)

    async def stream(self, caller: Caller, request: RouteRequest) -> ReplyStream:
        await self._act(request)
        events = ScriptedEvents(self.steps, self.clean_up)
        self.streams.append(events)
        return ReplyStream(self.reply.id, self.reply.created_s, request.model, LIMITS, HEAD, events)

    async def explain(self, caller: Caller, request: RouteRequest) -> Mapping[str, Any]:
        self.explained.append(request)
        return self.explanation

    def models(self, caller: Caller) -> tuple[str, ...]:
        return ("auto", "direct", "consistency")

    async def ready(self) -> Mapping[str, str]:
        return self.components


class Exchange:
    """One request to an ASGI application, message by message, and a client that can leave."""

    def __init__(
        self, body: bytes, *, path: str = "/v1/chat/completions", headers: dict[str, str] | None = None
    ):
        given = {"authorization": f"Bearer {KEY}", "content-type": "application/json", **(headers or {})}
        self.scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode()) for name, value in given.items()],
            "client": ("127.0.0.1", 1),
            "server": ("test", 80),
        }
        self._incoming: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]
        self._left = asyncio.Event()
        self._changed = asyncio.Condition()
        self.sent: list[dict[str, Any]] = []

    def leave(self) -> None:
        self._left.set()

    async def receive(self) -> dict[str, Any]:
        if self._incoming:
            return self._incoming.pop(0)
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        async with self._changed:
            self.sent.append(dict(message))
            self._changed.notify_all()

    async def until(self, condition: Callable[[Exchange], bool], timeout_s: float = 5.0) -> None:
        """Wait until what has been sent meets the condition."""
        async with asyncio.timeout(timeout_s), self._changed:
            await self._changed.wait_for(lambda: condition(self))

    @property
    def status(self) -> int | None:
        return self.sent[0]["status"] if self.sent else None

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def bodies(self) -> list[bytes]:
        return [message["body"] for message in self.sent[1:]]

    @property
    def body(self) -> bytes:
        return b"".join(self.bodies)
