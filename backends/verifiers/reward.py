"""A reward model's score: of the whole reply, or of its steps made into one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from backends.errors import BudgetTooSmall, StrategyUnsupported
from backends.verifiers.asking import side_by_side

if TYPE_CHECKING:
    from backends.strategies.base import Run
    from backends.task import Sample
    from backends.verifiers.base import RewardModel


async def reward(run: Run, replies: Sequence[Sample]) -> list[float | None]:
    """The tier's reward model's score of each reply, on the model's own scale; equal texts are read once.

    None for a reply that the model could not score. The tokens it reads are counted as this run's. Raises
    StrategyUnsupported where the tier has no reward model, BudgetTooSmall (nothing is read where the budget
    does not cover all), EngineError where every reply failed.
    """
    model = run.reward
    if model is None:
        raise StrategyUnsupported("this tier has no reward model: set `reward` in its configuration")
    texts = list(dict.fromkeys(reply.text for reply in replies if reply.text.strip()))
    counts = await side_by_side([model.count_tokens(run.task.messages, text) for text in texts])
    readable = [(text, count) for text, count in zip(texts, counts, strict=True) if count is not None]
    needed = sum(count for _, count in readable)
    if needed > run.tokens_left():
        raise BudgetTooSmall(needed, run.tokens_left())
    scores = await side_by_side([_read(run, model, text, count) for text, count in readable])
    known = {text: score for (text, _), score in zip(readable, scores, strict=True)}
    return [known.get(reply.text) for reply in replies]


async def _read(run: Run, model: RewardModel, text: str, prompt_tokens: int) -> float:
    with run.reading(prompt_tokens) as call:
        rewards = await model.rewards(run.task.messages, text, cache_scope=run.task.tenant)
        call.prompt_tokens = rewards.prompt_tokens
    return rewards.score
