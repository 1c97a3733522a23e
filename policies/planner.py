"""Prediction + policy + budget + conditions -> plan. Pure: no clock, no store, no randomness.

The start is the cheapest arm predicted to meet the quality target; if none is, the one with the best
p - cost_weight * tokens / 1000 (arXiv 2604.14853). Tokens are those that will be charged: the prompts of all
calls too, or a search, which resubmits its paths, would seem cheaper than it is. Evidence decides later
whether the ladder behind it is climbed (`escalate`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from policies.arm_spec import ONE_SAMPLE, TIERS
from policies.arms import Candidate, Size
from policies.candidates import able
from policies.ceilings import Ceilings, ceilings, refuse_low_budget
from policies.conditions import CALM, Conditions, in_time, priced, seconds, within_shares
from policies.errors import NoArm
from policies.exploration import cast
from policies.plan import ArmEstimate, Ask, Plan, Step, Verdict
from policies.schema import MAX_TOKENS, Policy, TenantPolicy

HOPELESS_GAIN = 0.02  # predictions are not finer than this: a smaller gain is no reason to pay more


def make_plan(
    ask: Ask,
    tenant: TenantPolicy,
    policy: Policy,
    estimates: Mapping[str, ArmEstimate],
    *,
    remaining_tokens: int | None,
    available_tiers: frozenset[str],
    retry_after_s: float | None = None,
    now: Conditions = CALM,
    draw: float | None = None,
) -> Plan:
    """Where to start, what may follow, and within which bounds.

    `estimates` maps arm names to predictions; arms without one are used only where no arm has one.
    `remaining_tokens` is the least that any budget window has left, None without budgets; `retry_after_s` is
    the time to that window's edge, passed on in BudgetExhausted. `available_tiers` are those that exist here;
    `now` says how they are, what they may still spend, and how the tenant keeps to its schedule. `draw` in
    [0, 1) is this request's lot where the tenant explores; with None nothing is left to chance.

    Raises UnknownTier, TierForbidden, CeilingExceeded, NoArm, RequestTooLarge, BudgetExhausted,
    TierShareSpent.
    """
    bounds, remarks = _paced(ask, ceilings(ask, tenant, policy), now)
    offered = able(ask, policy, estimates, bounds)
    candidates, spent = within_shares(offered, now, pinned=ask.tier)
    candidates, late = in_time(candidates, bounds.size, bounds.timeout_s, now)
    candidates, queues = priced(candidates, bounds.timeout_s, now)
    usable, ill = _well(candidates, bounds, available_tiers, now)
    choice, outage = _available_start(ask, candidates, bounds, usable, now)
    reasons = [*bounds.reasons, *remarks, *spent, *late, *queues, *ill, *outage, choice.reason]
    here = [c for c in candidates if c.spec.tier in usable]
    room = MAX_TOKENS if remaining_tokens is None else max(0, remaining_tokens)
    needed = min(choice.arm.reserve_tokens(bounds.size), bounds.total_tokens)
    smaller = None
    if needed > room:
        if tenant.on_low_budget == "deny" or not bounds.may_degrade:
            refuse_low_budget(needed, room, tenant, retry_after_s)
        smaller = _smaller(choice.arm, here, bounds, room)
        if smaller is None:
            refuse_low_budget(choice.arm.least_tokens(bounds.size), room, tenant, retry_after_s)
    own = (smaller or choice.arm).name
    lot = cast(ask, bounds, here, own, rate=tenant.exploration.rate, room=room, draw=draw)
    if lot.arm is not None:
        choice, smaller = _Choice(lot.arm, lot.reason, True), None
        reasons.append(lot.reason)
    not_as_pinned = bool(spent) and ask.strategy is not None
    degraded = bool(outage) or smaller is not None or choice.degraded or not_as_pinned
    if smaller is not None:
        start = _step(smaller, bounds, room, tenant)
        reasons.append(_said(start, f"the budget has {room} tokens left"))
    else:
        start = _step(choice.arm, bounds, bounds.total_tokens, tenant)
        if start.max_tokens < bounds.size.max_tokens:
            reasons.append(f"{bounds.total_name} leaves {start.max_tokens} tokens for a completion")
    steps = [start]
    if choice.ladder and smaller is None:
        left = min(room, bounds.total_tokens) - start.budget_tokens
        rungs, missed = _ladder(choice.arm, here, bounds, left, tenant, now)
        steps += rungs
        reasons += missed
    return Plan(
        tuple(steps),
        bounds.timeout_s,
        tuple(reasons),
        degraded,
        bounds.target,
        policy.version,
        choice.hopeless,
        held_back=now.pace.factor > 1.0
        or bool(spent or late or queues or ill)
        or any(now.of(arm.spec.tier).skipped for arm in candidates),
        starts=lot.starts,
        explored=lot.arm is not None,
    )


def escalate(
    plan: Plan, index: int, *, confidence: float | None, verified: bool | None, stop_reason: str
) -> Verdict:
    """Is the answer of step `index` good enough, or does the plan go on with the next step?

    A caller's check outranks everything, then what is possible, then the confidence. That of a single sample
    is a probability of being right (first-accept, arXiv 2601.02970): where it is too low, the next step must
    still be worth its tokens. Without any evidence the prediction decides.
    """
    step = plan.steps[index]
    if verified:
        return Verdict(True, "the answer passed the caller's check")
    if index + 1 >= len(plan.steps):
        return Verdict(True, f"{step.arm} is the plan's last step")
    following = plan.steps[index + 1]
    if stop_reason == "deadline":
        return Verdict(True, "the deadline leaves no time for another step")
    if verified is False:
        return Verdict(False, f"the answer failed the caller's check; {following.arm} tries next")
    if stop_reason == "no_comparable_answer":
        return Verdict(True, "the answers cannot be compared, so more samples would settle nothing")
    if confidence is not None:
        said = f"{step.arm} is {confidence:.2f} confident, {step.tier} needs {step.escalate_below:.2f}"
        if confidence >= step.escalate_below:
            return Verdict(True, said)
        if step.strategy in ONE_SAMPLE:
            if confidence >= step.p >= plan.quality_target:
                return Verdict(True, f"{said}; no less than was predicted, and enough for the target")
            worth, price = _worth_and_price(step, following, confidence)
            if worth <= price:
                return Verdict(True, f"{said}; {following.arm} would add {worth:.3f} and cost {price:.3f}")
        return Verdict(False, f"{said}; {following.arm} tries next")
    if step.p >= plan.quality_target:
        return Verdict(
            True, f"{step.arm} was predicted ({step.p:.2f}) to meet the target, and nothing speaks against it"
        )
    if following.net_gain > 0:
        gain = f"{following.arm} is predicted to gain more than it costs ({following.net_gain:+.3f})"
        return Verdict(False, f"{step.arm} gives no confidence, and {gain}")
    return Verdict(True, f"{step.arm} gives no confidence, and no further step is predicted to pay")


def _worth_and_price(step: Step, following: Step, confidence: float) -> tuple[float, float]:
    """What `following` adds now that `step`'s answer is known to be right with `confidence`, and its tokens.

    Both in success probability. Predicted was p -> p', so of the answers that are wrong the next step mends
    (p' - p) / (1 - p), if it spoils none; wrong ones are now as likely as 1 - confidence.
    """
    predicted = following.p - step.p
    wrong = (1.0 - confidence) / (1.0 - step.p) if step.p < 1.0 else 0.0
    return wrong * predicted, predicted - following.net_gain


# -- the start


@dataclass(frozen=True, slots=True)
class _Choice:
    arm: Candidate
    reason: str
    ladder: bool
    hopeless: bool = False
    degraded: bool = False


def _paced(ask: Ask, bounds: Ceilings, now: Conditions) -> tuple[Ceilings, list[str]]:
    """Lambda as the pace of spending has it. Ahead of schedule the tenant's target gives way to cost.

    A target that the caller names, or that must not be missed (allow_degrade: false), stands.
    """
    factor = now.pace.factor
    if factor == 1.0:
        return bounds, []
    soft = factor > 1.0 and bounds.may_degrade and ask.min_quality is None
    return replace(bounds, cost_weight=bounds.cost_weight * factor, soft_target=soft), [str(now.pace)]


def _well(
    candidates: Sequence[Candidate], bounds: Ceilings, available_tiers: frozenset[str], now: Conditions
) -> tuple[frozenset[str], list[str]]:
    """The tiers to choose from: those that are skipped for a while only where nothing else may answer."""
    asked = {arm.spec.tier for arm in candidates} & available_tiers
    skipped = {tier for tier in asked if now.of(tier).skipped}
    if not skipped or (bounds.may_degrade and asked - skipped):
        return available_tiers - skipped, []
    return available_tiers, [
        f"{tier} {now.of(tier).skipped}, but nothing else may answer, so it is tried"
        for tier in sorted(skipped)
    ]


def _available_start(
    ask: Ask,
    candidates: Sequence[Candidate],
    bounds: Ceilings,
    available_tiers: frozenset[str],
    now: Conditions,
) -> tuple[_Choice, list[str]]:
    """The start among the tiers that are up; the second value says what was missed because of the others."""
    best = _choose(candidates, bounds)
    if best.arm.spec.tier in available_tiers:
        return best, []
    here = [arm for arm in candidates if arm.spec.tier in available_tiers]
    if not here:
        down = " and ".join(sorted({arm.spec.tier for arm in candidates}))
        raise NoArm(f"the tier {down} is not available now; try again, or ask for auto", unavailable=True)
    if not bounds.may_degrade:
        problem = f"the tier {best.arm.spec.tier} is not available now, and allow_degrade is false"
        raise NoArm(f"{problem}; try again, or allow it", unavailable=True)
    why = now.of(best.arm.spec.tier).skipped or "is not available now"
    return _choose(here, bounds), [f"{best.arm.name} was preferred, but its tier {why}"]


def _choose(arms: Sequence[Candidate], bounds: Ceilings) -> _Choice:
    predicted = [arm for arm in arms if arm.estimate is not None]
    if not predicted:
        arm = min(arms, key=lambda arm: (arm.plainness, arm.samples, _rank(arm)))
        return _Choice(arm, f"there is no prediction, so the plainest arm, {arm.name}, answers", False)
    if len(predicted) == 1:
        arm = predicted[0]
        return _Choice(arm, f"{arm.name} ({arm.p:.2f}) is the only arm that the request allows", True)
    cheapest = _cheapest(predicted, bounds.size)
    good = [arm for arm in predicted if arm.p >= bounds.target]
    if good:
        arm = _cheapest(good, bounds.size)
        said = (
            f"{arm.name} is the cheapest arm predicted ({arm.p:.2f}) to meet the target {bounds.target:.2f}"
        )
        return _worth_it(arm, said, predicted, bounds) if bounds.soft_target else _Choice(arm, said, True)
    none = f"no arm is predicted to meet the target {bounds.target:.2f}"
    better = [arm for arm in predicted if arm.p - cheapest.p >= HOPELESS_GAIN]
    if not better:
        said = f"{none} or to do better than the cheapest, {cheapest.name} ({cheapest.p:.2f}), so it answers"
        return _Choice(cheapest, said, False, hopeless=True)
    weight, size = bounds.cost_weight, bounds.size
    arm = min([cheapest, *better], key=lambda arm: (-arm.value(weight, size), _dearness(arm, size)))
    if arm is cheapest:
        # A rung is paid for only when the cheapest has failed: one may pay although no dearer start does.
        later = (other for other in better if _rank(other) > _rank(cheapest))
        hopeless = not any(_pays(other, cheapest, weight, size) for other in later)
        said = f"{none}; no dearer start is worth its tokens, so {arm.name} ({arm.p:.2f}) answers"
        return _Choice(arm, said, not hopeless, hopeless)
    return _Choice(arm, f"{none}; {arm.name} ({arm.p:.2f}) gives the most for its tokens", True)


def _worth_it(good: Candidate, said: str, arms: Sequence[Candidate], bounds: Ceilings) -> _Choice:
    """The arm that meets the target, unless a cheaper one is the better buy while spending is ahead."""
    weight, size = bounds.cost_weight, bounds.size
    cheaper = [arm for arm in arms if _dearness(arm, size) <= _dearness(good, size)]
    best = min(cheaper, key=lambda arm: (-arm.value(weight, size), _dearness(arm, size)))
    if best is good:
        return _Choice(good, said, True)
    instead = f"{best.name} ({best.p:.2f}) answers instead, to make the budget last"
    return _Choice(best, f"{said}; {instead}", True, degraded=True)


def _cheapest(arms: Sequence[Candidate], size: Size) -> Candidate:
    return min(arms, key=lambda arm: _dearness(arm, size))


def _dearness(arm: Candidate, size: Size) -> tuple[float, int, str]:
    return (arm.weighed_tokens(size), _rank(arm), arm.name)


def _rank(arm: Candidate) -> int:
    return TIERS.index(arm.spec.tier)


# -- smaller and further


def _smaller(start: Candidate, here: Sequence[Candidate], bounds: Ceilings, room: int) -> Candidate | None:
    """What fits into `room` tokens: fewer samples, else one sample with fewer tokens; None if nothing."""
    if not start.one_sample and (fewer := start.fitted(bounds.size, room, 2)) is not None:
        return fewer
    single = [arm for arm in here if arm.one_sample]
    # On a pinned tier there may be nothing but voting arms: one vote is an answer too.
    options = sorted(single, key=lambda arm: _dearness(arm, bounds.size)) or [start.resized(1)]
    options = [arm for arm in options if arm.least_tokens(bounds.size) <= room]
    return options[0] if options else None


def _ladder(
    start: Candidate,
    here: Sequence[Candidate],
    bounds: Ceilings,
    left: int,
    tenant: TenantPolicy,
    now: Conditions,
) -> tuple[list[Step], list[str]]:
    """On each later tier the arm that pays most, if it pays: dearer arms for when the evidence is weak.

    Weak evidence comes about as often as the step before fails, 1 - p, and only then the rung is paid for:
    it pays if its gain in p exceeds cost_weight * (1 - p) * its extra tokens / 1000. It must also have the
    time to give one sample after the steps before it; the second value says which have not.
    """
    steps: list[Step] = []
    missed: list[str] = []
    current, weight, size = start, bounds.cost_weight, bounds.size
    left_s = bounds.timeout_s - (seconds(start, size, now) or 0.0)
    for tier in TIERS[TIERS.index(start.spec.tier) + 1 :]:
        fits = [arm.fitted(size, left, 2) for arm in here if arm.spec.tier == tier]
        paying = [arm for arm in fits if arm is not None and _pays(arm, current, weight, size)]
        if not paying:
            continue
        timely = [arm for arm in paying if (seconds(arm, size, now) or 0.0) <= left_s]
        if not timely:
            missed.append(f"{tier} is no further step: the deadline would leave it about {left_s:.2g} s")
            continue
        best = max(timely, key=lambda arm: (arm.value(weight, size), -arm.weighed_tokens(size), arm.name))
        gain = best.value(weight, size) - current.value(weight, size)
        steps.append(replace(_step(best, bounds, left, tenant), net_gain=gain))
        left -= steps[-1].budget_tokens
        left_s -= seconds(best, size, now) or 0.0
        current = best
    return steps, missed


def _pays(arm: Candidate, current: Candidate, cost_weight: float, size: Size) -> bool:
    extra = arm.weighed_tokens(size) - current.weighed_tokens(size)
    if arm.estimate is None or extra <= 0:
        return False
    return arm.p - current.p > cost_weight * (1.0 - current.p) * extra / 1000.0


def _step(arm: Candidate, bounds: Ceilings, room: int, tenant: TenantPolicy) -> Step:
    """A step within `room` tokens; a completion gets no more than the room leaves beside its prompt."""
    room = min(room, bounds.total_tokens)
    calls = arm.samples if arm.one_sample else 1
    max_tokens = min(bounds.size.max_tokens, room // calls - arm.prompt_tokens(bounds.size))
    size = Size(bounds.size.prompt_tokens, max_tokens)
    return Step(
        arm=arm.name,
        tier=arm.spec.tier,
        strategy=arm.spec.strategy,
        params=arm.params(),
        max_tokens=max_tokens,
        budget_tokens=min(arm.reserve_tokens(size), room),
        p=arm.p,
        expected_tokens=arm.charged_tokens(size),
        escalate_below=tenant.escalate_below.of(arm.spec.tier),
    )


def _said(step: Step, why: str) -> str:
    samples = step.params["max_samples"]
    what = "one completion" if samples == 1 else f"{samples} samples, each"
    return f"{why}: {step.arm} with {what} of at most {step.max_tokens} tokens"
