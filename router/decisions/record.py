"""A decision as it is kept: what was known, what could have been chosen, what was, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from policies.plan import ArmEstimate, Ask
from router.decisions.fields import MAX_CHARS, Fields

DecisionOutcome = Literal["answered", "refused", "failed", "cancelled"]
OUTCOMES: tuple[DecisionOutcome, ...] = get_args(DecisionOutcome)

MAX_TEXT_CHARS = 1_000_000  # of one message in a file; what is logged is bounded far below
SUM_TOLERANCE = 1e-6  # propensities are written with all their digits


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One arm that was run. `tokens` is all that it was charged, prompts too; `completion_tokens` the rest.

    `spec` is 8 hex digits of the arm's resolved spec: an arm of that name with other parameters is another.
    """

    arm: str
    spec: str
    tier: str
    strategy: str
    confidence: float | None = None
    verified: bool | None = None
    stop_reason: str = ""
    samples: int = 0
    tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One request's decision. Only `messages` are text of the caller's, there by the tenant's leave.

    `features` is 16 hex digits of the sha256 of the feature vector, `structural` the raw structural features,
    `ood` how unlike the training prompts it was; None and () where nothing was predicted. `ask` is what the
    planner was asked (`policies.plan.Ask`), `room_tokens` what the budget had left when it was planned (None:
    no budget said). `arms` are all predictions; `plan` the planned arms, the start first; `starts` maps every
    arm that could have been drawn to the propensity of starting there, and is empty where nothing was chosen.
    `tokens` were processed and generated, `charged_tokens` paid for; of a run that was left in the middle,
    what was known then. `gpu_seconds` and `cost_usd` are None where nobody knows. `score` is feedback.
    """

    decision_id: str
    at_ms: int
    tenant: str
    policy_version: str
    outcome: DecisionOutcome
    key_id: str = ""
    classifier_version: str = ""
    features: str | None = None
    structural: tuple[float, ...] = ()
    ood: float | None = None
    ask: Mapping[str, Any] = field(default_factory=dict)
    room_tokens: int | None = None
    arms: Mapping[str, ArmEstimate] = field(default_factory=dict)
    plan: tuple[str, ...] = ()
    starts: Mapping[str, float] = field(default_factory=dict)
    explored: bool = False
    code: str | None = None
    cache: str | None = None
    rungs: tuple[Rung, ...] = ()
    tokens: int = 0
    charged_tokens: int = 0
    gpu_seconds: float | None = None
    cost_usd: float | None = None
    degraded: bool = False
    hopeless: bool = False
    held_back: bool = False
    confidence: float | None = None
    verified: bool | None = None
    messages: tuple[Mapping[str, str], ...] | None = None
    score: float | None = None

    @property
    def propensity(self) -> float | None:
        """How likely the start was, None where nothing was chosen."""
        return self.starts.get(self.plan[0]) if self.plan else None

    @property
    def reward(self) -> float | None:
        """What the answer was worth: feedback, else the caller's check, else unknown (never confidence)."""
        if self.score is not None:
            return self.score
        return None if self.verified is None else float(self.verified)

    def to_json(self) -> dict[str, Any]:
        """Plain values that JSON has words for; `decision_from_json` gives back an equal decision."""
        plain = {name: getattr(self, name) for name in COLUMNS}
        plain["structural"] = list(self.structural)
        plain["ask"] = {name: value for name, value in self.ask.items() if value is not None}
        plain["arms"] = {name: _plain(each, _ESTIMATED) for name, each in self.arms.items()}
        plain["plan"] = list(self.plan)
        plain["starts"] = dict(self.starts)
        plain["rungs"] = [_plain(rung, _RUNG) for rung in self.rungs]
        plain["messages"] = None if self.messages is None else [dict(each) for each in self.messages]
        return plain


COLUMNS: tuple[str, ...] = tuple(each.name for each in fields(Decision))
ASKED: tuple[str, ...] = tuple(each.name for each in fields(Ask))
_RUNG = tuple(each.name for each in fields(Rung))
_ESTIMATED = tuple(each.name for each in fields(ArmEstimate))


def _plain(each: Rung | ArmEstimate, names: tuple[str, ...]) -> dict[str, Any]:
    """As dataclasses.asdict, which spends its time on copying deeply."""
    return {name: getattr(each, name) for name in names}


def decision_from_json(values: Mapping[str, Any], line: int | None = None) -> Decision:
    """Check every field; fields that no decision has are passed over, those of a later version among them.

    Raises InvalidDecision.
    """
    row = Fields(values, line)
    plan, starts = row.texts("plan"), _starts(row)
    if plan and starts and plan[0] not in starts:
        row.fail("starts", f"has no propensity of the arm that was started with, {plan[0]}")
    outcome = row.text("outcome")
    known = next((each for each in OUTCOMES if each == outcome), None)
    if known is None:
        row.fail("outcome", f"must be one of {', '.join(OUTCOMES)}")
    return Decision(
        decision_id=row.text("decision_id"),
        at_ms=row.whole("at_ms"),
        tenant=row.text("tenant"),
        policy_version=row.text("policy_version"),
        outcome=known,
        key_id=row.content("key_id", 200) if row.has("key_id") else "",
        classifier_version=row.content("classifier_version", 200) if row.has("classifier_version") else "",
        features=row.maybe_text("features"),
        structural=row.numbers("structural"),
        ood=row.maybe_number("ood"),
        ask=_ask(row.inner("ask")),
        room_tokens=row.maybe_whole("room_tokens"),
        arms={name: _estimate(each) for name, each in row.inner("arms").named()},
        plan=plan,
        starts=starts,
        explored=row.flag("explored"),
        code=row.maybe_text("code"),
        cache=row.maybe_text("cache"),
        rungs=tuple(_rung(each) for each in row.objects("rungs")),
        tokens=row.whole("tokens", 0),
        charged_tokens=row.whole("charged_tokens", 0),
        gpu_seconds=row.maybe_number("gpu_seconds"),
        cost_usd=row.maybe_number("cost_usd"),
        degraded=row.flag("degraded"),
        hopeless=row.flag("hopeless"),
        held_back=row.flag("held_back"),
        confidence=row.maybe_number("confidence", most=1.0),
        verified=row.maybe_flag("verified"),
        messages=_messages(row) if row.has("messages") else None,
        score=row.maybe_number("score", most=1.0),
    )


def _starts(row: Fields) -> dict[str, float]:
    inner = row.inner("starts")
    starts = {name: inner.number(name, most=1.0) for name in inner.names()}
    if any(share == 0.0 for share in starts.values()):
        row.fail("starts", "may only name arms that could have been started with: more than 0")
    if starts and abs(sum(starts.values()) - 1.0) > SUM_TOLERANCE:
        row.fail("starts", f"must sum to 1, not {sum(starts.values()):.6g}")
    return starts


def _estimate(each: Fields) -> ArmEstimate:
    return ArmEstimate(each.number("p", most=1.0), each.number("tokens"), each.number("tokens_high"))


def _rung(each: Fields) -> Rung:
    return Rung(
        arm=each.text("arm"),
        spec=each.text("spec"),
        tier=each.text("tier"),
        strategy=each.text("strategy"),
        confidence=each.maybe_number("confidence", most=1.0),
        verified=each.maybe_flag("verified"),
        stop_reason=each.content("stop_reason", MAX_CHARS) if each.has("stop_reason") else "",
        samples=each.whole("samples", 0),
        tokens=each.whole("tokens", 0),
        completion_tokens=each.whole("completion_tokens", 0),
    )


_WHOLE = ("prompt_tokens", "max_samples", "max_completion_tokens", "max_total_tokens", "choices")


def _ask(each: Fields) -> dict[str, Any]:
    """What `Ask(**ask)` takes; empty where a log does not tell."""
    each.only(ASKED)
    known: dict[str, Any] = {name: each.maybe_whole(name) for name in _WHOLE}
    known |= {name: each.maybe_text(name) for name in ("tier", "effort", "strategy")}
    known |= {
        "deadline_s": each.maybe_number("deadline_s"),
        "min_quality": each.maybe_number("min_quality", most=1.0),
        "allow_degrade": each.maybe_flag("allow_degrade"),
    }
    return {name: value for name, value in known.items() if value is not None}


def _messages(row: Fields) -> tuple[Mapping[str, str], ...]:
    return tuple(
        {"role": each.text("role"), "content": each.content("content", MAX_TEXT_CHARS)}
        for each in row.objects("messages")
    )
