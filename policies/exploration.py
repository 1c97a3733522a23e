"""Now and then a start is drawn by chance, so that a log can tell what other choices would have been worth.

Epsilon-greedy: with probability `rate` the start is drawn uniformly among the k arms that the request could
start at as it is, and is the policy's own choice otherwise. So each of them has a propensity of rate / k, and
the policy's choice 1 - rate more.

The draw is consistent: arms are ranked by a hash of the draw and their names, and the first of those that are
possible is taken. Where a budget or a share refuses some of them and the plan is made again with the same
draw, the start is uniform among those that are left, as if the others had never been there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from policies.arms import Candidate
from policies.ceilings import Ceilings
from policies.plan import Ask


@dataclass(frozen=True, slots=True)
class Lot:
    """An arm, or None where the policy's own choice stands; `starts` maps arms to propensities."""

    arm: Candidate | None
    starts: Mapping[str, float]
    reason: str = ""


def cast(
    ask: Ask,
    bounds: Ceilings,
    arms: Sequence[Candidate],
    chosen: str,
    *,
    rate: float,
    room: int,
    draw: float | None,
) -> Lot:
    """Draw the start, or let `chosen` be it. `draw` in [0, 1); None where nothing may be drawn.

    `arms` are those of the tiers that may answer now, `room` the tokens that are left. What a caller pinned,
    or may not be given less of, is never drawn.
    """
    pinned = ask.tier is not None or ask.strategy is not None or ask.min_quality is not None
    if draw is None or rate <= 0.0 or pinned or ask.choices > 1 or not bounds.may_degrade:
        return Lot(None, {chosen: 1.0})
    able = [arm for arm in arms if arm.estimate is not None and _holds(arm, bounds) <= room]
    if not any(arm.name != chosen for arm in able):
        return Lot(None, {chosen: 1.0})
    starts = dict.fromkeys((arm.name for arm in able), rate / len(able))
    starts[chosen] = starts.get(chosen, 0.0) + 1.0 - rate
    if draw >= rate:
        return Lot(None, starts)
    arm = min(able, key=lambda arm: _rank(draw, arm.name))
    instead = "" if arm.name == chosen else f" instead of {chosen}"
    said = f"the start was drawn by chance, as the policy explores {rate:.3g} of the requests: {arm.name}"
    return Lot(arm, starts, f"{said} ({arm.p:.2f}){instead}")


def _holds(arm: Candidate, bounds: Ceilings) -> int:
    return min(arm.reserve_tokens(bounds.size), bounds.total_tokens)


def _rank(draw: float, arm: str) -> bytes:
    return hashlib.sha256(f"{draw!r} {arm}".encode()).digest()
