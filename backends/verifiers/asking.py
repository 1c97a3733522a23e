"""Questions put to the engine about replies: side by side, within the run's budget, all or none."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from backends.engines.base import Message, Sampling
from backends.errors import BudgetTooSmall, ContextOverflow, EngineError

if TYPE_CHECKING:
    from backends.strategies.base import Call, Run

Question = tuple[Message, ...]
T = TypeVar("T")


async def ask(run: Run, questions: Sequence[Question], sampling: Sampling) -> list[Call | None]:
    """One verifier call a question; None where the question does not fit the context or the engine failed.

    Nothing is asked where the budget does not cover them all (BudgetTooSmall): scores of some replies rank
    nothing. Where every call failed, the first error is raised.
    """
    prompts = [await _prompt_tokens(run, question) for question in questions]
    needed = sum(tokens + sampling.max_tokens for tokens in prompts if tokens is not None)
    if needed > run.tokens_left():
        raise BudgetTooSmall(needed, run.tokens_left())
    fitting = [question for question, tokens in zip(questions, prompts, strict=True) if tokens is not None]
    calls = iter(await side_by_side([run.call(question, sampling, verifier=True) for question in fitting]))
    return [None if tokens is None else next(calls) for tokens in prompts]


async def side_by_side(work: Sequence[Coroutine[Any, Any, T]]) -> list[T | None]:
    """Run all of `work`: results in its order, None for what failed with an EngineError.

    The first of those is raised where all failed, and any other error always. Cancelling it cancels the work.
    """
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    errors = [error for task in tasks if (error := task.exception()) is not None]
    for error in errors:
        if not isinstance(error, EngineError) or len(errors) == len(tasks):
            raise error
    return [None if task.exception() is not None else task.result() for task in tasks]


async def _prompt_tokens(run: Run, question: Question) -> int | None:
    try:
        return await run.prompt_tokens(question)
    except ContextOverflow:
        return None
