"""An arm as an operator writes it: a strategy with its parameters on one tier, checked against each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

Tier = Literal["direct", "consistency", "search"]
Strategy = Literal["direct", "cot", "self_consistency", "best_of_n", "refine", "beam", "rebase", "mcts"]
Scorer = Literal["logprob", "p_true", "self_certainty", "judge", "reward", "check", "arithmetic"]

TIERS: tuple[Tier, ...] = get_args(Tier)  # in the order of the ladder
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)  # from plain to elaborate
ONE_SAMPLE: frozenset[str] = frozenset({"direct", "cot"})
TREE_SEARCH: frozenset[str] = frozenset({"beam", "rebase", "mcts"})
STEPWISE: frozenset[str] = frozenset({"beam", "rebase"})  # a call is a step; elsewhere it is a whole reply
EXTERNAL_SCORERS: frozenset[str] = frozenset({"arithmetic", "check", "reward"})  # no model's own opinion
MAX_SAMPLES = 40

_ALL = frozenset({"tier", "strategy", "temperature", "think"})
_TREE = _ALL | {"max_samples", "max_steps", "step_tokens", "scorer"}
READS: Mapping[str, frozenset[str]] = {
    "direct": _ALL,
    "cot": _ALL,
    "self_consistency": _ALL | {"max_samples", "confidence", "weighted", "scorer"},
    "best_of_n": _ALL | {"max_samples", "confidence", "scorer"},
    "refine": _ALL | {"rounds", "confidence", "scorer"},
    "beam": _TREE | {"width", "subtrees"},
    "rebase": _TREE | {"balance_temperature"},
    "mcts": _TREE,
}
"""The fields that each strategy reads; any other is refused, since it would do nothing."""

Samples = Annotated[int, Field(ge=1, le=MAX_SAMPLES)]


class FieldProblem(ValueError):
    """A check across fields failed; `path` is the field to look at."""

    def __init__(self, path: tuple[str, ...], problem: str) -> None:
        super().__init__(problem)
        self.path = path


class PolicyModel(BaseModel):
    """Part of a policy document: frozen, strict, without unknown fields or NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ArmSpec(PolicyModel):
    """One way to spend compute. Only `tier` and `strategy` are needed; `READS` says which fields count.

    `max_samples` bounds whole replies, or the children of a step in `STEPWISE`. `think` asks for reasoning:
    never in `direct`, always in `cot`, by default elsewhere. `scorer` names what ranks replies and steps, or
    what sends `refine` back to work ("check" there if left out: the caller's own).
    `rounds` bounds refinement after the first draft. `subtrees` above 1 splits a beam into as many
    independent ones. `balance_temperature` is REBASE's: lower puts more children on the best nodes.
    """

    tier: Tier
    strategy: Strategy
    max_samples: Samples = 1
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] = 0.7
    think: bool = True
    confidence: Annotated[float, Field(ge=0.5, lt=1.0)] = 0.95
    width: Annotated[int, Field(ge=1, le=16)] = 4
    max_steps: Annotated[int, Field(ge=1, le=64)] = 12
    step_tokens: Annotated[int, Field(ge=8, le=1024)] = 48
    scorer: Scorer = "logprob"
    weighted: bool = False
    rounds: Annotated[int, Field(ge=1, le=8)] = 3
    subtrees: Annotated[int, Field(ge=1, le=16)] = 1
    balance_temperature: Annotated[float, Field(gt=0.0, le=10.0)] = 0.15

    @property
    def replies(self) -> int:
        """The samples that the arm draws at most: whole replies, or children a step in `STEPWISE`."""
        return 1 + self.rounds if self.strategy == "refine" else self.max_samples

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_its_strategy(cls, data: Any) -> Any:
        own: Mapping[str, Any] = {}
        if isinstance(data, Mapping) and data.get("strategy") == "direct":
            own = {"think": False}
        elif isinstance(data, Mapping) and data.get("strategy") == "refine":
            own = {"scorer": "check"}
        return {**own, **data} if own else data

    @model_validator(mode="after")
    def _fits_its_strategy(self) -> Self:
        self._refuse_unread()
        if self.strategy == "direct" and self.think:
            raise FieldProblem(("think",), "direct does not think; write strategy: cot")
        if self.strategy == "cot" and not self.think:
            raise FieldProblem(("think",), "cot thinks; write strategy: direct, or leave think out")
        if self.strategy not in ONE_SAMPLE and self.temperature == 0:
            raise FieldProblem(("temperature",), "samples drawn at temperature 0 are copies; use about 0.7")
        if self.strategy == "self_consistency" and not self.weighted and self.scorer != "logprob":
            raise FieldProblem(
                ("scorer",), "plain votes count one each; write weighted: true or leave it out"
            )
        if self.strategy == "refine" and self.scorer not in EXTERNAL_SCORERS:
            able = ", ".join(sorted(EXTERNAL_SCORERS))
            raise FieldProblem(
                ("scorer",), f"refine needs a signal from outside the model; use one of {able}"
            )
        if self.width % self.subtrees:
            raise FieldProblem(
                ("subtrees",), f"{self.subtrees} subtrees do not divide a width of {self.width}; change one"
            )
        if self.strategy in TREE_SEARCH and self.max_samples < self.subtrees:
            raise FieldProblem(
                ("max_samples",), f"{self.subtrees} subtrees need as many children a step at least"
            )
        return self

    def _refuse_unread(self) -> None:
        """A field that the strategy does not read is refused where it says anything but its default."""
        reads = READS[self.strategy]
        for name, info in ArmSpec.model_fields.items():
            if name not in reads and getattr(self, name) != info.default:
                if name == "max_samples":
                    hint = "set rounds" if self.strategy == "refine" else "it draws one sample"
                    raise FieldProblem((name,), f"{self.strategy} does not read it: {hint}; leave it out")
                able = " or ".join(s for s in STRATEGIES if name in READS[s])
                raise FieldProblem((name,), f"{self.strategy} does not read it, {able} would; leave it out")
