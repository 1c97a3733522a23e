"""Whether a log can say what a policy would have come to, and what else to know before one believes it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from router.replay.estimators import effective_sample_size
from router.replay.log import LogReplay
from router.replay.rows import REWARD, Rows, Vector

MIN_ESS = 30.0  # fewer effective decisions than this say nothing
MOST_LACKING = 0.02  # of the policy's starts: what the log never could have drawn is the model's word alone
MOST_MENDED = 0.25  # of the weight: runs that would have gone on, or ended, otherwise
WORTH_SAYING = 0.01
_ODD_ERRORS = 4.0
_CANNOT = "the log cannot support an answer: "


@dataclass(frozen=True, slots=True)
class Weights:
    """How far the log speaks for the policy.

    `decisions` chose a start in the log and get one from the policy; `effective` is the effective sample size
    of their weights, `rewarded` that of those whose reward is known. `mean` should be 1. `lacking`: the share
    of the policy's starts that the log could not have drawn; `mended`: the share of the weight on runs that
    would have gone another way. `largest`: the largest weight. `explored`: the share of decisions where
    another start could have been drawn.
    """

    decisions: int
    effective: float
    rewarded: float
    mean: float
    lacking: float
    mended: float
    largest: float
    explored: float

    @property
    def planned_alone(self) -> bool:
        """Whether the policy starts where the log did, always."""
        return self.largest <= 1.0 and self.mean >= 1.0 - 1e-9


def weighed(rows: Rows, weights: Vector) -> Weights:
    """What the weights (n,) say of the log."""
    active = rows.chosen & ~rows.refused
    w = weights[active]
    total = float(w.sum())
    rewarded = active & np.isfinite(rows.measures[REWARD].logged)
    return Weights(
        decisions=int(active.sum()),
        effective=effective_sample_size(w),
        rewarded=effective_sample_size(weights[rewarded]),
        mean=float(w.mean()) if w.size else 0.0,
        lacking=float(rows.lacking[active].mean()) if w.size else 0.0,
        mended=float(w[~rows.same[active]].sum()) / total if total else 0.0,
        largest=float(w.max(initial=0.0)),
        explored=float(rows.drawn[active].mean()) if w.size else 0.0,
    )


def verdict(replayed: LogReplay, seen: Weights) -> tuple[bool, str]:
    """Whether the log can answer, and one sentence that says why."""
    rows = replayed.rows
    if bool(rows.refused.all()):
        return True, "the policy would refuse every request of this log; that needs no estimate"
    if not rows.chosen.any():
        return False, (
            _CANNOT + "it tells no propensities (`starts`); export it anew from a service whose policy sets "
            "exploration.rate"
        )
    # Without any exploration the log knows nothing of what it did not do, however little that is.
    if seen.lacking > (MOST_LACKING if seen.explored else 0.0):
        return False, _CANNOT + _lacking(replayed, seen)
    if not seen.effective >= MIN_ESS:
        return False, (
            f"{_CANNOT}its {seen.decisions:,} decisions are worth {seen.effective:.0f} of the policy's own "
            f"(at least {MIN_ESS:.0f} are needed); collect more, or explore more (exploration.rate)"
        )
    if seen.mended > MOST_MENDED:
        return False, (
            f"{_CANNOT}of the runs that start as the policy would, {seen.mended:.0%} would have gone on or "
            "ended otherwise; replay a policy whose escalate_below and arms are closer to the live ones"
        )
    without = ""
    if replayed.unknown_arms:
        names = ", ".join(replayed.unknown_arms)
        without = f"; but it never had {names}, and what follows is the policy without"
    return True, (
        f"the log supports an answer: its {seen.decisions:,} decisions are worth {seen.effective:,.0f} of "
        f"the policy's own{without}"
    )


def _lacking(replayed: LogReplay, seen: Weights) -> str:
    """What the policy would do and the log could not, and what to do about it."""
    worst = max(replayed.support, key=lambda arm: arm.lacking)
    share = f"{seen.lacking:.2%}" if seen.lacking < 0.01 else f"{seen.lacking:.0%}"
    said = f"in {share} of the requests the policy would start where the log never could, most often at "
    if worst.other_spec:
        why = "whose parameters were others in the log; give it a name of its own, let the live policy"
    elif not worst.predicted:
        why = "of which the log's classifier says nothing; train one that knows it, let the live policy"
    elif not seen.explored:
        why = "and the log has no exploration at all; set exploration.rate in the live policy, let it"
    else:
        why = "which the live policy could not draw there; give it that arm and tier, let it"
    return f"{said}{worst.arm}, {why} explore, and collect again"


def notes(replayed: LogReplay, seen: Weights, clip: float | None) -> tuple[str, ...]:
    """A sentence for everything that the figures leave out or take on trust."""
    counts, rows = replayed.counts, replayed.rows
    said = []
    planned = len(rows)
    if not counts.rewards:
        said.append("No decision has feedback or a check that passed or failed: accuracy is unknown.")
    elif counts.rewards < planned:
        share = counts.rewards / planned
        said.append(
            f"{share:.0%} of the decisions have feedback or a check ({counts.rewards:,} of {planned:,}): "
            "accuracy is estimated from those, and is theirs alone if who gives feedback is no matter of "
            "chance."
        )
    if counts.rewards and seen.rewarded < MIN_ESS:
        said.append(
            f"Those with a known reward are worth {seen.rewarded:.0f} decisions of the policy's own: too few "
            "to believe the accuracy."
        )
    if seen.mended > WORTH_SAYING:
        said.append(
            f"{seen.mended:.0%} of the weight lies on runs that would have gone on or ended otherwise: "
            "what they share with the log is counted as it was, and the model has the word on the rest."
        )
    if seen.lacking > 0.0:
        said.append(
            f"{seen.lacking:.1%} of the policy's starts could not have been drawn in the log: DR has only "
            "the model's word for them, IPS and SNIPS nothing."
        )
    lost = int((rows.was_refused & ~rows.refused).sum())
    if lost:
        said.append(
            f"The log refused {lost:,} requests that the policy would answer: what they would spend is the "
            "model's word, and their accuracy is not in the figure."
        )
    active = rows.chosen & ~rows.refused
    w = rows.weights[active]
    if w.size > 1 and clip is None:
        error = float(w.std()) / float(np.sqrt(w.size))
        if abs(seen.mean + seen.lacking - 1.0) > _ODD_ERRORS * error + 0.01:
            said.append(
                f"The weights average {seen.mean:.2f} and should average 1: the log's propensities do not "
                "fit what it did; do not believe these figures."
            )
    if clip is not None:
        said.append(f"Weights are clipped at {clip:g}: less noise, some bias.")
    said += _passed_over(replayed)
    return tuple(said)


def _passed_over(replayed: LogReplay) -> list[str]:
    counts = replayed.counts
    said = []
    if counts.from_cache:
        said.append(f"{counts.from_cache:,} answers came from the cache and would again: left out.")
    if counts.unplanned:
        said.append(
            f"{counts.unplanned:,} decisions ended before anything was planned (rate limits, say): left out."
        )
    if counts.without_propensities:
        said.append(f"{counts.without_propensities:,} decisions tell no propensities: only the model speaks.")
    if counts.unordered:
        said.append(
            f"{counts.unordered:,} decisions come before older ones: budgets follow the file's order."
        )
    for tenant, count in sorted(counts.unknown_tenants.items()):
        said.append(f"{count:,} decisions are of {tenant}, a tenant that the policy has not: left out.")
    said.append("Rate limits, shares of tiers and ill tiers are not replayed; budgets and pacing are.")
    return said
