"""Direct: one completion as it comes (or `n` of them, where the caller asked for choices)."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, replace

from backends.engines.base import Message, Sampling
from backends.errors import BudgetTooSmall, DeadlinePassed, EngineError
from backends.strategies.base import Call, Run, StrategyResult
from backends.strategies.ranking import eligible, likeliest
from backends.task import Sample


@dataclass(frozen=True, slots=True)
class DirectResult(StrategyResult):
    """One sample a choice, after those carried in; `confidence` is None: one draw is no evidence."""


@dataclass(frozen=True, slots=True)
class Completed:
    """What `complete` came to: the samples (carried in, then drawn), the answer's index, and why it ended."""

    samples: tuple[Sample, ...]
    chosen: int
    stop_reason: str


async def direct(run: Run) -> DirectResult:
    """Answer with the engine's own completion, after thinking aloud where the arm asks for it.

    Raises as `complete` does.
    """
    done = await complete(run, run.messages())
    return DirectResult(done.samples, done.chosen, done.stop_reason, None, planned=run.task.choices)


async def complete(run: Run, messages: tuple[Message, ...]) -> Completed:
    """One completion of `messages` a choice, the first streamed as it is generated.

    Samples carried in go along as votes for a later rung; the first one drawn is the answer. A cut by the
    deadline gives the text so far ("deadline"), a failing engine the choices that were finished
    ("engine_error"). Without any, a carried sample is the answer.
    Raises DeadlinePassed, BudgetTooSmall or EngineError where there is nothing to give.
    """
    carried, asked = run.task.evidence, run.task.sampling
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
            if len(calls) < run.task.choices:
                stop = "engine_error"
    except TimeoutError:
        stop = "deadline"
        if calls or not carried:  # a cut text is better than none, but not than a whole one
            calls = [call for call in run.calls if call.text]
        if not calls and not carried:
            raise DeadlinePassed("no token came before the deadline; allow more time") from None
    except BudgetTooSmall:
        if not carried:
            raise
        stop = "budget"
    except EngineError:
        if not calls and not carried:
            raise
        stop = "engine_error"
    for call in calls:
        run.keep(call)
    samples = (*carried, *(run.as_sample(call) for call in calls))
    chosen = len(carried) if calls else likeliest(samples, eligible(samples))
    return Completed(samples, chosen, stop)


def _choice(asked: Sampling, index: int) -> Sampling:
    return replace(asked, seed=None if asked.seed is None else (asked.seed + index) % 2**31)
