"""A reward model without a model: scripted and countable, for tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from backends.engines.base import Message
from backends.engines.fake import tokenize
from backends.verifiers.base import Aggregate, Rewards


class FakeRewardModel:
    """Scores a reply's steps with `score`; raises `failure` where it is set. `calls` are the replies read."""

    def __init__(
        self,
        score: Callable[[str], float | Sequence[float]],
        *,
        aggregate: Aggregate = "last",
        failure: Exception | None = None,
    ) -> None:
        self.failure = failure
        self.calls: list[str] = []
        self._score = score
        self._aggregate = aggregate

    async def start(self) -> None:
        return None

    async def aclose(self) -> None:
        return None

    async def count_tokens(self, messages: Sequence[Message], reply: str) -> int:
        return sum(len(tokenize(message.content)) for message in messages) + len(tokenize(reply))

    async def rewards(self, messages: Sequence[Message], reply: str, *, cache_scope: str = "") -> Rewards:
        self.calls.append(reply)
        if self.failure is not None:
            raise self.failure
        told = self._score(reply)
        steps = (told,) if isinstance(told, int | float) else tuple(told)
        return Rewards(steps, await self.count_tokens(messages, reply), self._aggregate)
