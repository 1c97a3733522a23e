"""The life of one request, top to bottom: limits, cache, classify, plan, reserve, tier, settle, reply.

No Ray and no HTTP in here. The pipeline runs each visit in a task of its own, so that what must happen at its
end (settle, free the slot) happens even when whoever asked is gone.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from backends.task import TextDelta
from classifier.predictor import Prediction
from policies.amounts import Amount
from policies.errors import StoreUnavailable
from policies.ledger import Scopes, tightest
from policies.pacing import Pace
from policies.plan import Plan
from policies.schema import Policy, TenantPolicy
from router.admission import Admission
from router.answers import Answers, Found, Question
from router.background import Background
from router.codec import as_hit
from router.decisions.digests import DecisionIds, draw_of
from router.decisions.line import log_decision
from router.decisions.noting import Notes
from router.errors import AuthenticationFailed, RouterError
from router.estimate import estimated_prompt_tokens
from router.execution import Execution, Outcome
from router.holding import Holding
from router.lease import Lease
from router.outage import Outage
from router.paces import Paces, pace_of
from router.parts import Parts
from router.planning import Planning
from router.request import Caller, Choice, LimitState, Receipt, Reply, ReplyEvent, RouteRequest
from router.reserving import foreseen, reserved
from router.shadow import Asked
from router.tier_shares import TierShares
from router.translate import caller_errors

Emit = Callable[[ReplyEvent], None] | None


class Visit:
    """One request on its way through; its methods are the stations, in order."""

    def __init__(
        self,
        parts: Parts,
        answers: Answers,
        background: Background,
        outage: Outage,
        paces: Paces,
        ids: DecisionIds,
        caller: Caller,
        tenant: TenantPolicy,
        request: RouteRequest,
    ) -> None:
        self._parts = parts
        self._answers = answers
        self._paces = paces
        self._background = background
        self._outage = outage
        self._detour = outage.detour(tenant)
        self._caller = caller
        self._tenant = tenant
        self._request = request
        self._began = time.perf_counter()
        self._admission = Admission(parts.limits, tenant, caller.key_id, background, self._detour)
        self.id = f"chatcmpl-{secrets.token_hex(12)}"
        self.decision_id = ids.new(caller.tenant)
        self.created_s = int(time.time())
        self._notes = Notes(self.decision_id, int(time.time() * 1000), caller, request)
        self.limits = LimitState()
        self.started = asyncio.Event()
        self._charged_tokens: int | None = 0  # for the rate limits; None: not known here

    def head(self) -> dict[str, str]:
        """Headers that are known before the first token."""
        return {"x-acr-policy": self._parts.policy.version, "x-acr-decision-id": self.decision_id}

    async def reply(self, emit: Emit) -> Reply:
        """The answer; the decision log hears of it, and of whatever ends the visit without one."""
        try:
            reply = await self._reply(emit)
        except BaseException as error:
            if isinstance(error, RouterError):
                error.decision_id = self.decision_id
            self._notes.write(self._notes.ended(error), self._parts, self._tenant)
            raise
        self._notes.write(self._notes.answered(reply.receipt), self._parts, self._tenant)
        return reply

    async def _reply(self, emit: Emit) -> Reply:
        with caller_errors(self._parts.policy.version):
            try:
                await self._admit()
                reply = await self._from_cache_or_tiers(emit)
            finally:
                self._admission.leave(self._charged_tokens)
                self._detour.leave()
        receipt = replace(reply.receipt, decision_id=self.decision_id)
        if self._parts.log_decisions:
            log_decision(self._caller, receipt, self._request.request_id)
        return replace(
            reply,
            id=self.id,
            created_s=self.created_s,
            model=self._request.model,
            limits=self.limits,
            receipt=receipt,
        )

    async def explain(self) -> Mapping[str, Any]:
        """The same stations up to the plan; nothing is counted, reserved or spent."""
        with caller_errors(self._parts.policy.version):
            prediction = await self._predict()
            scopes = self._scopes()
            gauges = await self._parts.ledger.peek(self._tenant.account, scopes)
            tight = tightest(gauges)
            planning = self._planning(prediction, pace_of(self._tenant, gauges), probing=False)
            left, reset_s = (tight.remaining, tight.reset_s) if tight else (None, None)
            shares, tiers = self._shares(self._lease().id), frozenset(self._parts.tiers.names)
            plan = await foreseen(planning.plan, left, reset_s, shares, self._holding(scopes), tiers)
        return {
            "tenant": self._caller.tenant,
            "policy_version": self._parts.policy.version,
            "classifier_version": prediction.version,
            "difficulty": prediction.difficulty,
            "prompt_tokens_estimate": self._prompt_tokens(),
            "arms": {
                name: {"p": estimate.p, "tokens": estimate.tokens, "tokens_high": estimate.tokens_high}
                for name, estimate in planning.estimates.items()
            },
            "plan": plan,
            "budgets": [g for g in gauges if g.unit == "tokens" or g.limit is not None],
        }

    # -- stations

    async def _admit(self) -> None:
        """Rate limits and the concurrency slot. Raises LimitExceeded."""
        self.limits = await self._admission.enter(self._request, self._prompt_tokens())

    async def _from_cache_or_tiers(self, emit: Emit) -> Reply:
        question = Question(
            tenant=self._tenant,
            policy_version=self._parts.policy.version,
            request=self._request,
            deadline_s=self._tenant.deadline_s.of(self._request.deadline_s),
            waiting=self.started.set,
        )
        found = await self._answers.find(question, partial(self._from_tiers, emit))
        return found.reply if found.fresh else await self._hit(found, emit)

    async def _hit(self, found: Found, emit: Emit) -> Reply:
        """An answer that is there already; it costs what the policy says."""
        charge = self._tenant.cache.hit_charge_tokens
        remaining = None
        if charge:
            lease = self._lease()
            try:
                await lease.reserve(self._scopes(), Amount(charge))
            except StoreUnavailable as error:
                if self._detour.take(error, lease):
                    await lease.reserve(self._scopes(), Amount(charge))
            charge = self._charged_tokens = await self._settled(lease, Amount(charge))
            remaining = lease.remaining_tokens
        reply = as_hit(
            found.reply, charged_tokens=charge, budget_remaining=remaining, similarity=found.similarity
        )
        reply = replace(reply, receipt=replace(reply.receipt, overhead_ms=self._elapsed_ms()))
        self.started.set()
        if emit is not None:
            emit(TextDelta(reply.choices[0].text))
        return reply

    async def _from_tiers(self, emit: Emit, cache: Literal["miss", "bypass"], waited_s: float = 0.0) -> Reply:
        prediction = self._notes.prediction = await self._predict()
        self._shadow(prediction)
        lease = self._lease()
        planning = self._planning(prediction, draw=draw_of(self.decision_id))
        shares = self._shares(lease.id)
        scopes = self._scopes()
        holding = self._holding(scopes)
        try:
            plan = await reserved(
                lease,
                scopes,
                planning.plan,
                self._detour,
                shares,
                holding,
                frozenset(self._parts.tiers.names),
                planning.sure,
            )
            self._notes.planned(plan, lease)
            if waited_s:
                # The same plan, cut where the caller's deadline is: what it cuts is never kept for others.
                plan = replace(plan, timeout_s=max(0.001, plan.timeout_s - waited_s))
            return await self._carried_out(emit, cache, prediction, plan, lease, shares, holding)
        finally:
            shares.close()

    async def _carried_out(
        self,
        emit: Emit,
        cache: Literal["miss", "bypass"],
        prediction: Prediction,
        plan: Plan,
        lease: Lease,
        shares: TierShares,
        holding: Holding,
    ) -> Reply:
        self.started.set()
        execution = Execution(
            self._parts.tiers,
            plan,
            self._request,
            lease,
            self._caller.tenant,
            prediction.confidence,
            shares,
            holding.most,
        )
        self._notes.execution = execution
        owed = execution.owed
        try:
            outcome = await execution.run(emit)
        except asyncio.CancelledError:
            self._charged_tokens = None if owed.in_flight else owed.tokens
            if owed.in_flight:
                lease.settle_abandoned(owed.amount)
            else:
                self._background.spawn(lease.settle(owed.amount, exact=owed.exact))
            raise
        except Exception:
            self._charged_tokens = owed.tokens
            await self._settled(lease, owed.amount, exact=owed.exact)
            raise
        self._charged_tokens = owed.tokens
        self._admission.leave(owed.tokens)  # now, so that it travels with the settlement
        charged = await self._settled(lease, owed.amount, exact=owed.exact)
        if self._tenant.on_store_error == "degrade":
            self._background.spawn(self._outage.ledger.look(self._tenant.account, self._scopes()))
        return self._bill(outcome, plan, prediction, lease, charged, cache, execution.tier_seconds)

    async def _settled(self, lease: Lease, owed: Amount, *, exact: bool = True) -> int:
        """The work is done: what is owed for it is charged even if the caller leaves right now."""
        return await asyncio.shield(self._background.spawn(lease.settle(owed, exact=exact)))

    async def _predict(self) -> Prediction:
        messages = [{"role": m.role, "content": m.content} for m in self._request.messages]
        return await self._parts.classifier.predict(messages)

    def _planning(
        self,
        prediction: Prediction,
        pace: Pace | None = None,
        *,
        probing: bool = True,
        draw: float | None = None,
    ) -> Planning:
        return Planning(
            self._request,
            self._tenant,
            self._parts.policy,
            prediction,
            prompt_tokens=self._prompt_tokens(),
            tiers=self._parts.tiers.names,
            board=self._parts.board,
            pace=self._paces.of(self._tenant) if pace is None else pace,
            probing=probing,
            draw=draw,
        )

    def _holding(self, scopes: Scopes) -> Holding:
        may_move = self._tenant.on_low_budget == "degrade"
        return Holding.of(scopes, self._parts.tariffs, self._request.n, may_move)

    def _shares(self, lease_id: str) -> TierShares:
        parts = self._parts
        ttl_s = max(parts.lease_ttl_s, self._tenant.deadline_s.of(self._request.deadline_s))
        later = self._outage.later
        return TierShares(parts.ledger, self._tenant, lease_id, ttl_s, self._background, later)

    def _shadow(self, prediction: Prediction) -> None:
        """Have the shadow policy plan the same, where there is one; both as if the budget sufficed."""
        shadow = self._parts.shadow
        if shadow is not None and shadow.policy.version != self._parts.policy.version:
            told = Asked(self.decision_id, self._caller, self._parts.policy)
            shadow.compare(
                told, lambda policy: self._under(policy)._planning(prediction, probing=False).plan()
            )

    def _under(self, policy: Policy) -> Visit:
        """The same visit under another policy, to plan with."""
        if self._caller.tenant not in policy.tenants:
            raise AuthenticationFailed(f"the policy {policy.version} has no tenant {self._caller.tenant}")
        other = copy(self)
        other._parts = replace(self._parts, policy=policy)
        other._tenant = policy.tenants[self._caller.tenant]
        return other

    def _lease(self) -> Lease:
        account, ttl_s = self._tenant.account, self._parts.lease_ttl_s
        return Lease(self._parts.ledger, account, ttl_s, self._background, self._outage.later)

    def _scopes(self) -> Scopes:
        return self._tenant.scopes(self._caller.key_id)

    def _prompt_tokens(self) -> int:
        return estimated_prompt_tokens(self._request.messages, self._parts.prompt_bytes_per_token)

    # -- the bill

    def _elapsed_ms(self) -> float:
        return (time.perf_counter() - self._began) * 1000.0

    def _bill(
        self,
        outcome: Outcome,
        plan: Plan,
        prediction: Prediction,
        lease: Lease,
        charged_tokens: int,
        cache: Literal["miss", "bypass"],
        tier_seconds: float,
    ) -> Reply:
        result = outcome.result
        receipt = Receipt(
            decision_id=self.decision_id,
            lease_id=lease.id or None,
            arms_tried=outcome.arms_tried,
            tier=outcome.step.tier,
            strategy=result.strategy,
            samples_planned=result.planned,
            samples_used=outcome.used,
            samples_cancelled=outcome.cancelled,
            stop_reason=result.stop_reason,
            confidence=result.confidence,
            difficulty=prediction.difficulty,
            spend=outcome.spend,
            charged_tokens=charged_tokens,
            saved_tokens=0,
            gpu_seconds=outcome.gpu_seconds,
            flops=outcome.flops,
            cost_usd=outcome.cost_usd,
            cache=cache,
            degraded=outcome.degraded,
            verified=result.verified,
            reasons=outcome.reasons,
            policy_version=self._parts.policy.version,
            classifier_version=prediction.version,
            engine_model=result.engine_model,
            overhead_ms=self._elapsed_ms() - tier_seconds * 1000.0,
            budget_remaining=lease.remaining_tokens,
            answer=result.answer,
            hopeless=plan.hopeless,
            held_back=plan.held_back,
            explored=plan.explored,
        )
        choices = tuple(Choice(text, result.finish) for text in result.texts)
        return Reply(self.id, self.created_s, self._request.model, choices, receipt, self.limits)
