"""Direct: one completion as it comes (or `n` of them, where the caller asked for choices)."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, replace

from backends.engines.base import Sampling
from backends.errors import BudgetTooSmall, DeadlinePassed
from backends.strategies.base import Call, Run, StrategyResult


@dataclass(frozen=True, slots=True)
class DirectResult(StrategyResult):
    """One sample a choice; `confidence` is None, since one draw is no evidence of its own."""


async def direct(run: Run) -> DirectResult:
    """Answer with the engine's own completion, streamed as it is generated.

    A cut by the deadline returns the text so far with stop reason "deadline".
    Raises DeadlinePassed if there is none, BudgetTooSmall, EngineError.
    """
    messages, asked = run.messages(), run.task.sampling
    calls: list[Call] = []
    stop = "complete"
    try:
        async with asyncio.timeout_at(run.deadline):
            if run.task.choices > 1:
                # All or none: where a later choice were refused, the first would be drawn, and paid, twice.
                whole = run.task.choices * (await run.prompt_tokens(messages) + asked.max_tokens)
                if whole > run.tokens_left():
                    raise BudgetTooSmall(whole, run.tokens_left())
            # The first choice warms the prefix cache for the others.
            calls.append(await run.call(messages, asked, show=run.task.stream_text))
            run.used += 1
            others = [_choice(asked, index) for index in range(1, run.task.choices)]
            async with aclosing(run.in_launch_order(messages, others)) as drawn:
                async for call, _ in drawn:
                    calls.append(call)
    except TimeoutError:
        stop = "deadline"
        calls = [call for call in run.calls if call.text]
        if not calls:
            raise DeadlinePassed("no token came before the deadline; allow more time") from None
    for call in calls:
        run.keep(call)
    samples = tuple(run.as_sample(call) for call in calls)
    return DirectResult(
        samples=samples, chosen=0, stop_reason=stop, confidence=None, planned=run.task.choices
    )


def _choice(asked: Sampling, index: int) -> Sampling:
    return replace(asked, seed=None if asked.seed is None else (asked.seed + index) % 2**31)
