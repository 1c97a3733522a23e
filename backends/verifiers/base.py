"""The verifier seam: what a caller asks to be checked, and what scores replies."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from backends.engines.base import Message
    from backends.strategies.base import Run
    from backends.task import Sample


@dataclass(frozen=True, slots=True)
class VerifySpec:
    """`compute.verify` of a request. Only the fields of its `type` are set.

    regex: `pattern` (RE2 syntax, searched in the answer). json_schema: `schema`. number: the answer is
    a number within [`minimum`, `maximum`], whole if `integer`. choice: the answer is one of `choices`.
    """

    type: Literal["regex", "json_schema", "number", "choice"]
    pattern: str | None = None
    schema: dict[str, Any] | None = None
    minimum: float | None = None
    maximum: float | None = None
    integer: bool = False
    choices: tuple[str, ...] = ()


Scorer = Callable[["Run", "Sequence[Sample]"], Awaitable["list[float | None]"]]
"""One signal about replies to `run.task`, whole or cut after a step: a score each, higher is better.

None where a reply cannot be scored. Calls to an engine go through `run.call(..., verifier=True)`, so that
they are counted and never exceed the budget. Raises StrategyUnsupported where the engine lacks what it
needs, BudgetTooSmall where the budget does not cover it.
"""


Aggregate = Literal["last", "min", "mean", "prod"]


@dataclass(frozen=True, slots=True)
class Rewards:
    """What a reward model said of a reply: a score a step (one for the whole), and the tokens it read."""

    steps: tuple[float, ...]
    prompt_tokens: int
    aggregate: Aggregate = "last"

    @property
    def score(self) -> float:
        """The steps' scores as one (arXiv 2408.03314 compares these ways); there is at least one step."""
        if self.aggregate == "last":
            return self.steps[-1]
        if self.aggregate == "min":
            return min(self.steps)
        return prod(self.steps) if self.aggregate == "prod" else sum(self.steps) / len(self.steps)


class RewardModel(Protocol):
    """A reward model somewhere else. Raises EngineUnavailable, EngineProtocolError or ContextOverflow.

    `count_tokens` is what `rewards` will read, exact or an upper bound, so that a budget can be held for it.
    `cache_scope` keeps tenants from sharing a prefix cache.
    """

    async def start(self) -> None: ...

    async def aclose(self) -> None: ...

    async def count_tokens(self, messages: Sequence[Message], reply: str) -> int: ...

    async def rewards(self, messages: Sequence[Message], reply: str, *, cache_scope: str = "") -> Rewards: ...
