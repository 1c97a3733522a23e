"""The service behind the HTTP layer: authenticates, and runs each request as a visit it owns."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from policies.errors import StoreUnavailable
from policies.schema import TenantPolicy
from router.answers import Answers
from router.background import Background
from router.decisions.digests import DecisionIds
from router.errors import AuthenticationFailed
from router.feedback import give_feedback
from router.health import WatchedTiers
from router.outage import Outage
from router.paces import Paces
from router.parts import Parts
from router.planning import AUTO
from router.request import Caller, LimitState, Reply, ReplyEvent, ReplyStream, RouteRequest
from router.ruling import Ruling
from router.visit import Visit


class Pipeline:
    """Serves requests (`router.request.Service`)."""

    def __init__(self, parts: Parts) -> None:
        watched = WatchedTiers(parts.tiers, parts.board)
        self._parts = self._trial_parts = replace(parts, tiers=watched)
        self._ruling = Ruling(parts.policy, parts.keys)
        self._answers = Answers(parts)
        self._background = Background()
        self._outage = Outage(parts)
        self._paces = Paces(parts.ledger, self._background)
        self._ids = DecisionIds(parts.cache_secret)

    async def aclose(self) -> None:
        await self._background.aclose()
        await self._answers.aclose()
        await self._outage.aclose()
        if self._parts.decisions is not None:
            await self._parts.decisions.aclose()

    def rule(self, ruling: Ruling) -> None:
        """Decide by this from the next request on; those on their way keep what they began with."""
        self._parts = replace(self._parts, policy=ruling.policy, keys=ruling.keys, shadow=ruling.shadow)
        trial = ruling.trial.policy if ruling.trial else ruling.policy
        self._trial_parts = replace(self._parts, policy=trial)
        self._ruling = ruling

    # -- the service

    def authenticate(self, bearer: str | None) -> Caller:
        found = self._parts.keys.lookup(bearer) if bearer else None
        if found is None:
            raise AuthenticationFailed(
                "the API key is unknown; send a valid one as `Authorization: Bearer KEY`"
            )
        return Caller(*found)

    async def complete(self, caller: Caller, request: RouteRequest) -> Reply:
        work = asyncio.create_task(self._visit(caller, request).reply(None))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            work.cancel()
            raise

    async def stream(self, caller: Caller, request: RouteRequest) -> ReplyStream:
        visit = self._visit(caller, request)
        events: asyncio.Queue[ReplyEvent | None] = asyncio.Queue()
        work = asyncio.create_task(visit.reply(events.put_nowait))
        work.add_done_callback(lambda _: events.put_nowait(None))
        started = asyncio.create_task(visit.started.wait())
        try:
            await asyncio.wait({work, started}, return_when=asyncio.FIRST_COMPLETED)
            if work.done() and not visit.started.is_set():
                work.result()  # raises the refusal
        except BaseException:
            work.cancel()
            raise
        finally:
            started.cancel()
        return ReplyStream(
            id=visit.id,
            created_s=visit.created_s,
            model=request.model,
            limits=visit.limits,
            head=visit.head(),
            events=_Events(work, events),
        )

    async def explain(self, caller: Caller, request: RouteRequest) -> Mapping[str, Any]:
        return await self._visit(caller, request).explain()

    async def feedback(self, caller: Caller, decision_id: str, score: float) -> LimitState:
        parts, tenant = self._deciding(caller)
        return await give_feedback(parts, self._ids, caller, tenant, decision_id, score)

    def models(self, caller: Caller) -> tuple[str, ...]:
        parts, tenant = self._deciding(caller)
        return (AUTO, *(tier for tier in parts.tiers.names if tier in tenant.tiers))

    async def ready(self) -> Mapping[str, str]:
        tiers = self._parts.tiers
        found = await asyncio.gather(*(tiers.healthy(tier) for tier in tiers.names))
        state = {
            f"tier {name}": "ok" if well else "does not answer"
            for name, well in zip(tiers.names, found, strict=True)
        }
        try:
            await self._parts.ledger.peek("readiness", [("tenant", {"minute": {}})])
            state["budget store"] = "ok"
        except StoreUnavailable:
            state["budget store"] = "does not answer"
        return state

    # -- one request

    def _visit(self, caller: Caller, request: RouteRequest) -> Visit:
        parts, tenant = self._deciding(caller)
        shared = (self._answers, self._background, self._outage, self._paces, self._ids)
        return Visit(parts, *shared, caller, tenant, request)

    def _deciding(self, caller: Caller) -> tuple[Parts, TenantPolicy]:
        """The parts with the policy that decides for this caller now, and its tenant there."""
        parts = self._trial_parts if self._ruling.tries(caller) else self._parts
        tenant = parts.policy.tenants.get(caller.tenant)
        if tenant is None:
            raise AuthenticationFailed("the key's tenant is not in the policy any more; ask the operator")
        return parts, tenant


class _Events:
    """The events of a visit. Not a generator: closing one that was never started would do nothing."""

    def __init__(self, work: asyncio.Task[Reply], events: asyncio.Queue[ReplyEvent | None]) -> None:
        self._work = work
        self._events = events
        self._ended = False

    def __aiter__(self) -> _Events:
        return self

    async def __anext__(self) -> ReplyEvent:
        if self._ended:
            raise StopAsyncIteration
        event = await self._events.get()
        if event is None:
            self._ended = True
            return self._work.result()
        return event

    async def aclose(self) -> None:
        """The caller is gone, or has read all; the visit settles by itself."""
        self._work.cancel()
