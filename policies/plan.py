"""What the planner is asked, what it is told, and what it answers. Plain values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Param = int | float | bool | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What the caller wants; None where the request leaves it open.

    `tier` is pinned, None for auto. `prompt_tokens` counts the templated prompt (or an upper bound).
    `choices` is the API's `n`.
    """

    prompt_tokens: int
    tier: str | None = None
    effort: str | None = None
    strategy: str | None = None
    max_samples: int | None = None
    max_completion_tokens: int | None = None
    max_total_tokens: int | None = None
    deadline_s: float | None = None
    min_quality: float | None = None
    allow_degrade: bool | None = None
    choices: int = 1


@dataclass(frozen=True, slots=True)
class ArmEstimate:
    """A prediction for one arm as the policy configures it.

    `p` is the calibrated probability of success; `tokens` the expected completion tokens of all its samples
    (early stop included), `tokens_high` about their 95 % quantile.
    """

    p: float
    tokens: float
    tokens_high: float


@dataclass(frozen=True, slots=True)
class Step:
    """One rung of a plan.

    `max_tokens` bounds each completion, `budget_tokens` everything that the rung may process and generate
    (prompts included). `expected_tokens` is what the rung is expected to be charged, its bound where nothing
    is predicted. `params` are the fields of a strategy's parameters. `escalate_below` is the confidence under
    which the next rung is tried. `net_gain` is what the rung adds over the one before it, in success
    probability, after its extra tokens are paid for with the cost weight; 0 for the first.
    """

    arm: str
    tier: str
    strategy: str
    params: Mapping[str, Param]
    max_tokens: int
    budget_tokens: int
    p: float
    expected_tokens: float
    escalate_below: float
    net_gain: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """The arm to start with, the ladder behind it, and why.

    The steps' budgets add up to no more than the request's ceilings and the budget that was left. Reserve the
    first step's; extend the lease by the next one's before it runs. `degraded`: less than was asked for.
    `held_back`: pacing, a spent share, a queue or an ill tier had a say, so another moment might plan more.
    `hopeless`: no arm is predicted to meet the target, or to be worth more than the cheapest, which answers.
    `explored`: the start was drawn by chance; `starts` has the propensity of each that might have been.
    """

    steps: tuple[Step, ...]
    timeout_s: float
    reasons: tuple[str, ...]
    degraded: bool
    quality_target: float
    policy_version: str
    hopeless: bool = False
    held_back: bool = False
    starts: Mapping[str, float] = field(default_factory=dict)
    explored: bool = False

    @property
    def start(self) -> Step:
        return self.steps[0]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an answer is good enough, and why, for the receipt."""

    accept: bool
    reason: str
