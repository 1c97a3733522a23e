"""How much more cost counts, so that a window's budget lasts as long as the window. Pure.

Lambda is the price of a token in success probability. Searching the lambda that spends a budget exactly
(arXiv 2604.14853) needs the day's requests beforehand; paced online, the dual price of a budget is corrected
by what was spent beyond the schedule (Balseiro and Gur, Management Science 65, 2019). With multiplicative
updates the price after many steps is its start times exp(rate x all overspending so far): a function of what
the window has used, which the ledger knows for all replicas together. So nothing else is kept anywhere.
Here the schedule begins anew at each moment: what is left may last for the time that is left.
"""

from __future__ import annotations

import calendar
import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from policies.limit_spec import Pacing

GAIN = 16.0  # at 8 a burst late in the day came too fast for it (make bench-pacing)
DAY_S = 86_400.0
LEAST_LEFT = 1e-9
MOST_EXPONENT = 100.0  # far above any max_factor, and within what a float holds


@dataclass(frozen=True, slots=True)
class Pace:
    """`factor` multiplies the cost weight; the shares say of what window, and in which unit, it follows."""

    factor: float = 1.0
    window: str = ""
    used_share: float = 0.0
    elapsed_share: float = 0.0
    unit: str = "tokens"

    def __str__(self) -> str:
        return (
            f"{self.used_share:.0%} of the {self.window}'s budget is spent or held after "
            f"{self.elapsed_share:.0%} of the {self.window}, so cost counts {self.factor:.2g} times"
        )


EVEN = Pace()


def pace(rule: Pacing, used_share: float, elapsed_share: float, unit: str = "tokens") -> Pace:
    """The factor is (budget left / time left) to the power of -16 x strength, within the rule's bounds.

    At 1 spending is on schedule. A tenant that would spend more than its budget settles a little ahead of
    schedule, where its price is high enough, and stays there: what is left and the time that is left shrink
    together, so that the budget ends with the window and not before. Early in a window the ratio hardly
    moves, so a burst costs little; late it moves fast.
    """
    left = max(LEAST_LEFT, 1.0 - used_share)
    time_left = max(LEAST_LEFT, 1.0 - elapsed_share)
    exponent = GAIN * rule.strength * (math.log(time_left) - math.log(left))
    factor = math.exp(min(exponent, MOST_EXPONENT))
    factor = min(max(factor, rule.min_factor), rule.max_factor)
    return Pace(factor, rule.window, used_share, elapsed_share, unit)


def tightest_pace(rule: Pacing, spent: Iterable[tuple[str, int, int]], elapsed_share: float) -> Pace:
    """Of (unit, used, limit) the one that is furthest ahead of its schedule; `EVEN` without a limit."""
    paces = [pace(rule, used / limit if limit else 1.0, elapsed_share, unit) for unit, used, limit in spent]
    return max(paces, key=lambda one: one.factor, default=EVEN)


def elapsed_share(window: str, reset_s: float, now: datetime | None = None) -> float:
    """How much of a window is over `reset_s` before its edge, from 0 to 1.

    `now` only tells which month it is: a clock that is off by an hour or two makes no difference.
    """
    length_s = {"minute": 60.0, "day": DAY_S}.get(window) or _month_s(reset_s, now or datetime.now(UTC))
    return min(max(1.0 - reset_s / length_s, 0.0), 1.0)


def _month_s(reset_s: float, now: datetime) -> float:
    within = now + timedelta(seconds=reset_s) - timedelta(days=2)  # the edge is a month's first second
    return calendar.monthrange(within.year, within.month)[1] * DAY_S
