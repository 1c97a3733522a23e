"""A plan carried out: rung after rung under one lease, evidence carried up, every token counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Protocol

from backends.engines.base import Sampling
from backends.errors import BackendError, BudgetTooSmall, ContextOverflow, EngineError
from backends.task import (
    NOTHING_USED,
    Progress,
    Sample,
    Spend,
    StrategyParams,
    TextDelta,
    TierResult,
    TierTask,
    Used,
)
from policies.amounts import Amount
from policies.arm_spec import ONE_SAMPLE
from policies.errors import BudgetDenied, LedgerError, StoreUnavailable
from policies.plan import Plan, Step, Verdict
from policies.planner import escalate
from router.errors import Overloaded, TierUnavailable
from router.holding import Bound, in_tokens
from router.judge import Judge, confidence_in
from router.owed import KnownSpend, Owed
from router.request import RouteRequest
from router.tier_shares import TierShares
from router.tiers import TierClient

MIN_COMPLETION_TOKENS = 16  # less room than this for a reply is not worth its prompt


Emit = Callable[[TextDelta | Progress], None]


class Hold(KnownSpend, Protocol):
    """The lease as a plan needs it: more of it, or BudgetDenied. `held` is what it covers."""

    id: str
    held: Amount

    async def extend(self, extra: Amount) -> None: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a plan came to; `result` is the rung whose answer is given, the sums are over all rungs."""

    result: TierResult
    step: Step
    arms_tried: tuple[str, ...]
    spend: Spend
    used: int
    cancelled: int
    gpu_seconds: float
    flops: float
    cost_usd: float
    reasons: tuple[str, ...]
    degraded: bool


class _Shown:
    """Passes events on, and knows whether the caller has seen text: then there is no way back."""

    def __init__(self, emit: Emit | None) -> None:
        self._emit = emit
        self.text = False

    def __call__(self, event: TextDelta | Progress) -> None:
        self.text = self.text or isinstance(event, TextDelta)
        if self._emit is not None:
            self._emit(event)


class Execution:
    """One plan being carried out; `owed` is what it has to pay for so far."""

    def __init__(
        self,
        tiers: TierClient,
        plan: Plan,
        request: RouteRequest,
        hold: Hold,
        tenant: str,
        judge: Judge | None = None,
        shares: TierShares | None = None,
        bound: Bound = in_tokens,
    ) -> None:
        self._tiers = tiers
        self._judge = judge
        self._bound = bound
        self._plan = plan
        self._request = request
        self._hold = hold
        self._shares = shares
        self._tenant = tenant
        self._ends_at = asyncio.get_running_loop().time() + plan.timeout_s
        self._ceiling_tokens = request.max_total_tokens
        self._degraded = plan.degraded
        self._reasons = list(plan.reasons)
        self._results: list[tuple[Step, TierResult]] = []
        self.owed = Owed()
        self.tier_seconds = 0.0

    @property
    def results(self) -> Sequence[tuple[Step, TierResult]]:
        """What each rung that answered gave so far."""
        return self._results

    async def run(self, emit: Emit | None) -> Outcome:
        """Climb the ladder until an answer is accepted or nothing is left to climb with.

        With `emit`, text is passed on as it is generated where the first rung's answer will be accepted
        whatever it is, and at the end otherwise. Raises what the first rung raised if no rung answered.
        """
        failure: Exception | None = None
        shown = _Shown(emit)
        for index, step in enumerate(self._plan.steps):
            if not await self._allowed(step):
                continue
            if not await self._covered(step):
                break
            live = emit is not None and index == 0 and self._is_final()
            try:
                result = await self._rung(step, shown if emit is not None else None, live)
            except (EngineError, TierUnavailable, Overloaded) as error:
                if isinstance(error, ContextOverflow) or shown.text:
                    raise
                failure = failure or error
                self._reasons.append(f"{step.arm} did not answer ({type(error).__name__})")
                if not await self._may_go_on(step):
                    break
                continue
            result = replace(result, confidence=confidence_in(step, result, self._judge))
            self._results.append((step, result))
            verdict = escalate(
                self._plan,
                index,
                confidence=result.confidence,
                verified=result.verified,
                stop_reason=result.stop_reason,
            )
            if shown.text and not verdict.accept:
                verdict = Verdict(True, f"{step.arm} was shown as it was generated, so it stands")
            self._reasons.append(verdict.reason)
            if verdict.accept:
                break
        if not self._results:
            raise failure or RuntimeError("a plan without steps")
        outcome = self._outcome()
        if emit is not None and not shown.text:
            emit(TextDelta(outcome.result.texts[0]))
        return outcome

    def _is_final(self) -> bool:
        """The first rung generates one text, and nothing that it says will lead to another rung."""
        start = self._plan.start
        believed = len(self._plan.steps) == 1 or start.p >= self._plan.quality_target
        return start.strategy in ONE_SAMPLE and believed and self._request.verify is None

    async def _may_go_on(self, step: Step) -> bool:
        """After `step` failed: its tokens are found where it was lost, and the lease must still be open."""
        if self.owed.exact:
            return True
        lost = await self.owed.find_lost(self._hold)
        if lost:
            self._reasons.append(f"{step.arm} had spent at least {lost} tokens, which are charged")
        return lost is not None

    async def _allowed(self, step: Step) -> bool:
        """Has the rung's tier room in its share of the spend? Without a rung so far: it has been asked."""
        if self._shares is None:
            return True
        try:
            spent = await self._shares.take(step.tier, self._bound(step, step.budget_tokens))
        except LedgerError:
            if not self._results:
                raise
            self._reasons.append(f"no share could be had for {step.arm}, so it is left out")
            return False
        if spent is not None:
            self._reasons.append(f"{step.tier} {spent}, so {step.arm} is left out")
        return spent is None

    async def _covered(self, step: Step) -> bool:
        """Make the lease cover this rung too; False if the budget refuses and there is an answer to give."""
        missing = (self.owed.amount + self._bound(step, step.budget_tokens)).beyond(self._hold.held)
        if not missing:
            return True
        try:
            await self._hold.extend(missing)
        except LedgerError as error:
            if not self._results:
                raise
            why = (
                "the budget does not cover"
                if isinstance(error, BudgetDenied)
                else "no budget could be had for"
            )
            self._reasons.append(f"{why} {step.arm}; the answer so far is given")
            self._degraded = True
            return False
        return True

    async def _rung(self, step: Step, emit: Emit | None, live: bool) -> TierResult:
        task = self._task(step, live)
        try:
            return await self._call(step, task, emit)
        except BudgetTooSmall as short:
            # The prompt was longer than estimated. Nothing is spent yet, so hold what it needs, or say less.
            return await self._call(step, await self._fitted(step, task, short), emit)

    async def _fitted(self, step: Step, task: TierTask, short: BudgetTooSmall) -> TierTask:
        extra = short.needed_tokens - short.budget_tokens
        wanted = task.budget_tokens + extra
        ceiling = self._ceiling_tokens
        if ceiling is None or self.owed.tokens + wanted <= ceiling:
            try:
                more = self._bound(step, wanted).beyond(self._bound(step, task.budget_tokens))
                if self._shares is not None:
                    await self._shares.extend(step.tier, more)
                await self._hold.extend(more)
                return replace(task, budget_tokens=wanted)
            except (BudgetDenied, StoreUnavailable):  # what is held will do
                if self._request.allow_degrade is False:
                    raise
                self._degraded = True
        room = task.sampling.max_tokens - extra
        if room < MIN_COMPLETION_TOKENS:
            raise short
        self._reasons.append(f"the prompt is longer than estimated; the completion is cut to {room} tokens")
        return replace(task, sampling=replace(task.sampling, max_tokens=room))

    async def _call(self, step: Step, task: TierTask, emit: Emit | None) -> TierResult:
        loop = asyncio.get_running_loop()
        started = loop.time()
        self._start(step.tier)
        try:
            result = await self._answer(step.tier, task, emit)
        except BackendError as error:
            self._end(step.tier, error.spend, error.used or NOTHING_USED)
            raise
        except TierUnavailable:
            self.owed.lose()
            raise
        except Overloaded:
            self._end(step.tier, None, NOTHING_USED)  # it never ran
            raise
        finally:
            self.tier_seconds += loop.time() - started
        used = Used(result.spend.total, result.gpu_seconds, result.cost_usd)
        self._end(step.tier, result.spend, used)
        return result

    def _start(self, tier: str) -> None:
        self.owed.start()
        if self._shares is not None:
            self._shares.begin(tier)

    def _end(self, tier: str, spend: Spend | None, used: Used) -> None:
        self.owed.end(spend, used.gpu_seconds, used.usd)
        if self._shares is not None:
            self._shares.end(tier, Amount.of((spend or Spend()).total, used.gpu_seconds, used.usd))

    async def _answer(self, tier: str, task: TierTask, emit: Emit | None) -> TierResult:
        if emit is None:
            return await self._tiers.run(tier, task)
        result: TierResult | None = None
        async with aclosing(self._tiers.stream(tier, task)) as events:
            async for event in events:
                if isinstance(event, TierResult):
                    result = event
                else:
                    emit(event)
        if result is None:
            raise TierUnavailable(f"the tier {tier} ended its stream without a result; try again")
        return result

    def _task(self, step: Step, live: bool) -> TierTask:
        request = self._request
        params = StrategyParams(
            **{k: v for k, v in step.params.items() if k in StrategyParams.__dataclass_fields__}  # type: ignore[arg-type]
        )
        temperature = request.temperature
        if temperature is None:
            temperature = params.temperature if step.strategy in ONE_SAMPLE else 0.0
        sampling = Sampling(
            max_tokens=step.max_tokens,
            temperature=temperature,
            top_p=1.0 if request.top_p is None else request.top_p,
            seed=request.seed,
            stop=request.stop,
        )
        return TierTask(
            lease_id=self._hold.id,
            strategy=step.strategy,
            messages=request.messages,
            sampling=sampling,
            params=params,
            budget_tokens=step.budget_tokens,
            timeout_s=max(0.001, self._ends_at - asyncio.get_running_loop().time()),
            tenant=self._tenant,
            spent_before=self.owed.used,
            verify=request.verify,
            evidence=self._evidence(),
            choices=request.n,
            stream_text=live,
            progress=request.progress,
        )

    def _evidence(self) -> tuple[Sample, ...]:
        return self._results[-1][1].samples if self._results else ()

    def _outcome(self) -> Outcome:
        step, result = self._results[-1]
        results = [r for _, r in self._results]
        spend = self.owed.spend
        generated = spend.completion - spend.verifier
        # A chosen sample that was carried in was paid for by an earlier rung.
        carried = next((s.completion_tokens for s in result.samples if s.text == result.texts[0]), 0)
        kept = min(result.spend.completion_kept or carried, generated)
        return Outcome(
            result=result,
            step=step,
            arms_tried=tuple(s.arm for s, _ in self._results),
            # What an earlier rung kept is discarded once a later one gives the answer.
            spend=replace(spend, completion_kept=kept, completion_discarded=generated - kept),
            used=sum(r.used for r in results),
            cancelled=sum(r.cancelled for r in results),
            gpu_seconds=self.owed.gpu_seconds,
            flops=sum(r.flops for r in results),
            cost_usd=self.owed.usd,
            reasons=tuple(self._reasons),
            degraded=self._degraded,
        )
