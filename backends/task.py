"""What travels between the router and a tier: the task, its events and its result."""

from __future__ import annotations

from dataclasses import dataclass, field

from backends.engines.base import Message, Sampling
from backends.verifiers.base import VerifySpec


@dataclass(frozen=True, slots=True)
class Spend:
    """Tokens by kind, cancelled work included; adds up with `+`.

    `prompt_computed` + `prompt_cached` is what the engine was given; `completion_kept` belongs to the
    answer that was returned, `completion_discarded` to every other sample, `verifier` to scoring calls.
    """

    prompt_computed: int = 0
    prompt_cached: int = 0
    completion_kept: int = 0
    completion_discarded: int = 0
    verifier: int = 0
    calls: int = 0

    @property
    def prompt(self) -> int:
        return self.prompt_computed + self.prompt_cached

    @property
    def completion(self) -> int:
        return self.completion_kept + self.completion_discarded + self.verifier

    @property
    def total(self) -> int:
        """What a token budget is charged: every token processed or generated."""
        return self.prompt + self.completion

    def __add__(self, other: Spend) -> Spend:
        return Spend(
            self.prompt_computed + other.prompt_computed,
            self.prompt_cached + other.prompt_cached,
            self.completion_kept + other.completion_kept,
            self.completion_discarded + other.completion_discarded,
            self.verifier + other.verifier,
            self.calls + other.calls,
        )


@dataclass(frozen=True, slots=True)
class Used:
    """What a budget is charged, in every unit that there may be one of; adds up with `+`.

    `usd` is NaN where the price is not known.
    """

    tokens: int = 0
    gpu_seconds: float = 0.0
    usd: float = 0.0

    def __add__(self, other: Used) -> Used:
        return Used(self.tokens + other.tokens, self.gpu_seconds + other.gpu_seconds, self.usd + other.usd)


NOTHING_USED = Used()


@dataclass(frozen=True, slots=True)
class Sample:
    """One finished draw: a vote. `answer` is the canonical extracted answer, None if there is none.

    `certainty` is its self-certainty where the engine tells alternatives (`verifiers/self_certainty.py`).
    """

    text: str
    answer: str | None
    finish: str
    completion_tokens: int
    mean_logprob: float | None = None
    verified: bool | None = None
    tier: str = ""
    certainty: float | None = None


@dataclass(frozen=True, slots=True)
class StrategyParams:
    """How an arm runs its strategy; every strategy reads the fields it knows.

    `scorer` names what ranks replies and steps (`backends.verifiers.scorers.SCORERS`). `weighted` makes votes
    count by confidence. `rounds` bounds refinement. `subtrees` above 1 splits a beam into independent ones
    (DVTS). `balance_temperature` is REBASE's.
    """

    max_samples: int = 1
    temperature: float = 0.7
    think: bool = True
    confidence: float = 0.95
    width: int = 4
    max_steps: int = 12
    step_tokens: int = 48
    scorer: str = "logprob"
    weighted: bool = False
    rounds: int = 3
    subtrees: int = 1
    balance_temperature: float = 0.15


@dataclass(frozen=True, slots=True)
class TierTask:
    """One rung of a plan. `budget_tokens` (of `Spend.total`) is never exceeded.

    `spent_before` is what earlier rungs of the same lease used: checkpoints are cumulative.
    """

    lease_id: str
    strategy: str
    messages: tuple[Message, ...]
    sampling: Sampling
    params: StrategyParams
    budget_tokens: int
    timeout_s: float
    tenant: str = ""
    spent_before: Used = NOTHING_USED
    verify: VerifySpec | None = None
    evidence: tuple[Sample, ...] = ()
    choices: int = 1
    stream_text: bool = False
    progress: bool = False


@dataclass(frozen=True, slots=True)
class TierResult:
    """What a rung came to.

    `samples` are all votes, those carried in included, so that the next rung can go on from them;
    `used` counts the ones drawn here to their end, `cancelled` the ones cut off. `confidence` is the
    strategy's own belief that the answer is right, None where it has no evidence for one.
    """

    strategy: str
    texts: tuple[str, ...]
    answer: str | None
    finish: str
    stop_reason: str
    confidence: float | None
    verified: bool | None
    planned: int
    used: int
    cancelled: int
    spend: Spend
    gpu_seconds: float = 0.0
    flops: float = 0.0
    cost_usd: float = 0.0
    engine_model: str = ""
    samples: tuple[Sample, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Text of the answer as it is generated (only where `stream_text` was asked)."""

    text: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: finished samples, leading answer, confidence, tokens so far."""

    samples_done: int
    leader: str | None
    confidence: float | None
    tokens: int


TierEvent = TextDelta | Progress | TierResult
