"""What holds at the moment of a decision, as plain values: tiers, spent shares, the pace of spending."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from policies.arms import Candidate, Size
from policies.errors import TierShareSpent
from policies.pacing import EVEN, Pace

QUEUE_WEIGHT = 4.0  # waiting a quarter of the time that a request has makes a tier twice as dear
WORTH_SAYING = 1.1


@dataclass(frozen=True, slots=True)
class TierState:
    """A tier as far as a replica of the router knows.

    `skipped` says why it is left alone for a while, "" where it is not. `queue_s` is how long a run waits
    before it starts; `seconds_per_token` how long a token of one reply takes, None where nobody knows.
    """

    skipped: str = ""
    queue_s: float = 0.0
    seconds_per_token: float | None = None


@dataclass(frozen=True, slots=True)
class SpentShare:
    """A tier has no room left in its share of a window's spend.

    `retry_after_s` runs to the window's edge, None where the request is too large for a whole share.
    """

    share: float
    window: str
    remaining: int
    retry_after_s: float | None

    def __str__(self) -> str:
        if self.retry_after_s is None:
            return f"may spend {self.share:.0%} of the {self.window}, which is less than this could take"
        left = f", {self.remaining} tokens are left of it" if self.remaining else ""
        return (
            f"has spent its share of the {self.window} ({self.share:.0%} of what is spent{left}; "
            f"full again in {self.retry_after_s:.0f} s)"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Tiers that are not named are well, idle and of unknown speed, and may spend what they want."""

    tiers: Mapping[str, TierState] = field(default_factory=dict)
    spent_shares: Mapping[str, SpentShare] = field(default_factory=dict)
    pace: Pace = EVEN

    def of(self, tier: str) -> TierState:
        return self.tiers.get(tier, _CALM)


_CALM = TierState()
CALM = Conditions()


def seconds(arm: Candidate, size: Size, now: Conditions) -> float | None:
    """How long the arm takes to give one whole sample, its tier's queue included; None where nobody knows.

    Strategies end with the best they have at the deadline, so one sample is all that must fit.
    """
    state = now.of(arm.spec.tier)
    if state.seconds_per_token is None:
        return state.queue_s or None
    return state.queue_s + arm.reply_tokens(size) * state.seconds_per_token


def within_shares(
    arms: Sequence[Candidate], now: Conditions, *, pinned: str | None
) -> tuple[list[Candidate], list[str]]:
    """The arms whose tiers may still spend. Raises TierShareSpent where none is left."""
    spent = {arm.spec.tier for arm in arms} & set(now.spent_shares)
    if not spent:
        return list(arms), []
    kept = [arm for arm in arms if arm.spec.tier not in spent]
    if not kept:
        tier = pinned or min(spent, key=lambda tier: (now.spent_shares[tier].retry_after_s is None, tier))
        share = now.spent_shares[tier]
        raise TierShareSpent(tier, share.window, share.share, share.retry_after_s)
    return kept, [f"{tier} {now.spent_shares[tier]}, so other tiers answer" for tier in sorted(spent)]


def in_time(
    arms: Sequence[Candidate], size: Size, timeout_s: float, now: Conditions
) -> tuple[list[Candidate], list[str]]:
    """The arms that can give one sample by the deadline; the fastest, where none can."""
    needed = {arm.name: seconds(arm, size, now) for arm in arms}
    late = {name: time for name, time in needed.items() if time is not None and time > timeout_s}
    kept = [arm for arm in arms if arm.name not in late]
    if not late:
        return kept, []
    if not kept:
        fastest = min(arms, key=lambda arm: (late[arm.name], arm.name))
        said = f"nothing is expected to answer within {timeout_s:.3g} s; {fastest.name} is the fastest"
        return [fastest], [f"{said} (about {late[fastest.name]:.3g} s), so it tries"]
    return kept, [
        f"{name} is left out: its first sample takes about {time:.3g} s, the deadline is {timeout_s:.3g} s"
        for name, time in sorted(late.items())
    ]


def priced(arms: Sequence[Candidate], timeout_s: float, now: Conditions) -> tuple[list[Candidate], list[str]]:
    """The arms with what a queue adds to their cost."""
    prices: dict[str, float] = {}
    said = []
    for tier in sorted({arm.spec.tier for arm in arms}):
        queue_s = now.of(tier).queue_s
        prices[tier] = 1.0 + QUEUE_WEIGHT * min(1.0, queue_s / timeout_s)
        if prices[tier] >= WORTH_SAYING:
            said.append(f"{tier} has a queue of about {queue_s:.2g} s, so it counts {prices[tier]:.2g} times")
    return [replace(arm, price=prices[arm.spec.tier]) for arm in arms], said
