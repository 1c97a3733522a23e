"""Which arms may answer a request, and with how many samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from policies.arm_spec import ONE_SAMPLE, STRATEGIES, ArmSpec
from policies.arms import Candidate
from policies.ceilings import Ceilings
from policies.errors import NoArm, RequestTooLarge
from policies.plan import ArmEstimate, Ask
from policies.schema import Policy


def candidate(name: str, spec: ArmSpec, policy: Policy, estimates: Mapping[str, ArmEstimate]) -> Candidate:
    """An arm as the policy has it, with what is predicted for it and for one sample."""
    known = [estimates[n] for n, s in policy.arms.items() if n in estimates and s.strategy in ONE_SAMPLE]
    single = None
    if known:
        single = ArmEstimate(
            max(e.p for e in known), max(e.tokens for e in known), max(e.tokens_high for e in known)
        )
    return Candidate(name, spec, spec.replies, estimates.get(name), single)


def able(ask: Ask, policy: Policy, estimates: Mapping[str, ArmEstimate], bounds: Ceilings) -> list[Candidate]:
    """The arms that answer to what was asked, cut to the ceilings; never empty.

    Raises NoArm, RequestTooLarge.
    """
    arms = [candidate(name, spec, policy, estimates) for name, spec in policy.arms.items()]
    arms = [arm for arm in arms if arm.spec.tier in bounds.tiers]
    if ask.strategy is not None:
        arms = [arm for arm in arms if ask.strategy == arm.spec.strategy]
    if ask.choices > 1:
        # Several choices are several answers to keep: nothing is left to vote on.
        arms = [arm for arm in arms if arm.one_sample and arm.spec.tier == "direct"]
        arms = [arm.resized(ask.choices) for arm in arms]
    if not arms:
        raise NoArm(_why_none(ask, bounds))
    if ask.choices == 1:
        pinned = ask.tier is not None or ask.strategy is not None
        arms = (_pinned if pinned else _cut_samples)(arms, bounds)
    fitting = [arm for arm in arms if arm.least_tokens(bounds.size) <= bounds.total_tokens]
    if not fitting:
        least = min(arm.least_tokens(bounds.size) for arm in arms)
        raise RequestTooLarge(least, bounds.total_tokens, bounds.total_name)
    return _cut_tokens(fitting, bounds)


def _why_none(ask: Ask, bounds: Ceilings) -> str:
    if ask.strategy is not None and ask.strategy not in STRATEGIES:
        return f"there is no strategy {ask.strategy}; ask for one of {', '.join(STRATEGIES)}"
    wanted = [f"strategy {ask.strategy}"] if ask.strategy is not None else []
    wanted += [f"n={ask.choices}"] if ask.choices > 1 else []
    tiers = " or ".join(bounds.tiers)
    return f"no arm offers {' and '.join(wanted) or 'an answer'} on {tiers}; leave it open, or ask for auto"


def _cut_samples(arms: Sequence[Candidate], bounds: Ceilings) -> list[Candidate]:
    """Shrink arms with more samples than the ceiling, unless that makes them one that is there already."""
    kept: list[Candidate] = []
    for arm in sorted(arms, key=lambda arm: (arm.samples, arm.name)):
        samples = min(arm.samples, bounds.max_samples)
        same = [k for k in kept if _kind(k) == _kind(arm) and k.samples == samples]
        better = [k for k in same if k.estimate is not None or arm.estimate is None]
        if samples == arm.samples or not better:
            kept.append(arm.resized(samples))
    return kept


def _pinned(arms: Sequence[Candidate], bounds: Ceilings) -> list[Candidate]:
    """Of each voting or searching strategy the largest arm, with all the samples of the ceiling."""
    kept = [arm for arm in arms if arm.one_sample]
    for arm in sorted(arms, key=lambda arm: (-arm.samples, arm.name)):
        if not arm.one_sample and all(_kind(k) != _kind(arm) for k in kept):
            kept.append(arm.resized(bounds.max_samples))
    return kept


def _kind(arm: Candidate) -> tuple[str, str]:
    return (arm.spec.tier, arm.spec.strategy)


def _cut_tokens(arms: Sequence[Candidate], bounds: Ceilings) -> list[Candidate]:
    """Shrink arms to the ceiling of tokens; those that could vote only with themselves are left out."""
    fitted = [
        arm if arm.one_sample or arm.samples == 1 else arm.fitted(bounds.size, bounds.total_tokens, 2)
        for arm in arms
    ]
    some = [arm for arm in fitted if arm is not None]
    return some or [arm.resized(1) for arm in arms]
