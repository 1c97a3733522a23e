"""Errors of the policies; the router maps them to HTTP in one place.

PolicyError
├── PolicyFileError           a policy file is refused: file, line, field and why, in one line
├── PublicationRefused        what is to be published does not follow from what is
├── UnknownVersion            no such version is kept
├── NotSealed                 what the store has was not written with this service's secret
├── PlanRefused               no plan can be made for this request
│   ├── UnknownTier           the pinned tier does not exist
│   ├── TierForbidden         it exists, and the tenant may not use it
│   ├── CeilingExceeded       a parameter asks for more than the tenant's cap
│   ├── BudgetExhausted       the budget left in a window is too small; it fits again at the window's edge
│   ├── TierShareSpent        the only tiers that may answer have spent their share of a window
│   ├── RequestTooLarge       it would not fit an empty window either: asking again cannot help
│   ├── PriceUnknown          a budget in money, and a tier that nobody has priced
│   └── NoArm                 nothing allowed and available answers to what was asked
├── LedgerError               the ledger refused or could not answer
│   ├── BudgetDenied          a scope's window has too little left for the reservation
│   ├── LeaseNotOpen          the lease is unknown, expired, settled or released
│   └── StoreUnavailable      Redis did not answer; whether the command ran is unknown
│       └── StoreDamaged      it answered that these keys cannot be read: another type, say
└── LimitExceeded             requests/min, tokens/min or concurrency

All are picklable: they cross process boundaries between deployments.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from policies.amounts import SAID, Unit, in_words

if TYPE_CHECKING:
    from policies.limits import LimitUsage


MAX_FIELD_CHARS = 200


class PolicyError(Exception):
    """Base of everything that this package raises on purpose."""


class PolicyFileError(PolicyError):
    """A policy file is refused. `line` counts from 1; `field` is a dotted path, "" for the whole file."""

    def __init__(self, file: str, line: int, field: str, problem: str) -> None:
        super().__init__(file, line, field, problem)
        self.file = file
        self.line = line
        self.field = field
        self.problem = problem

    def __str__(self) -> str:
        """One printable line: a field's name is what somebody wrote, and ends up in a log."""
        field = self.field if len(self.field) <= MAX_FIELD_CHARS else f"{self.field[:MAX_FIELD_CHARS]}..."
        line = f"{self.file}:{self.line}: " + (f"{field}: " if field else "") + self.problem
        return "".join(each if each.isprintable() else "?" for each in " ".join(line.split()))


class PublicationRefused(PolicyError):
    """What is to be published does not follow from what is; the message says what to do."""


class UnknownVersion(PolicyError):
    """No such version is kept; the message says how to find those that are."""


class NotSealed(PolicyError):
    """`what` the store has was not written with this service's secret: nobody may believe it."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what

    def __str__(self) -> str:
        return (
            f"{self.what} in the store is not sealed with this ACR_CACHE_SECRET; "
            "use the secret of the service, or publish anew with --force"
        )


class PlanRefused(PolicyError):
    """No plan can be made for this request."""


class UnknownTier(PlanRefused):
    """The pinned tier does not exist."""

    def __init__(self, tier: str) -> None:
        super().__init__(tier)
        self.tier = tier

    def __str__(self) -> str:
        return f"there is no tier {self.tier!r}; ask for auto, direct, consistency or search"


class TierForbidden(PlanRefused):
    """The tier exists, and the tenant may not use it."""

    def __init__(self, tier: str, allowed: tuple[str, ...]) -> None:
        super().__init__(tier, allowed)
        self.tier = tier
        self.allowed = allowed

    def __str__(self) -> str:
        return f"the tier {self.tier} is not open to this key; ask for auto, {' or '.join(self.allowed)}"


class CeilingExceeded(PlanRefused):
    """`param` asks for more than the tenant's cap; a cap is never applied silently."""

    def __init__(self, param: str, asked: float, cap: float) -> None:
        super().__init__(param, asked, cap)
        self.param = param
        self.asked = asked
        self.cap = cap

    def __str__(self) -> str:
        return f"{self.param} is {self.asked:g}, above the cap of {self.cap:g}; ask for at most {self.cap:g}"


class BudgetExhausted(PlanRefused):
    """The budget left is too small; None for `retry_after_s` where the window's edge is not known."""

    def __init__(self, needed_tokens: int, remaining_tokens: int, retry_after_s: float | None = None) -> None:
        super().__init__(needed_tokens, remaining_tokens, retry_after_s)
        self.needed_tokens = needed_tokens
        self.remaining_tokens = remaining_tokens
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return (
            f"the request needs up to {self.needed_tokens} tokens and the budget has "
            f"{self.remaining_tokens} left; wait for the next window or ask for less"
        )


class TierShareSpent(PlanRefused):
    """The tier has spent its share of the window's spend; `retry_after_s` runs to the window's edge.

    None: the request could take more than the whole share, so that waiting cannot help.
    """

    def __init__(self, tier: str, window: str, share: float, retry_after_s: float | None) -> None:
        super().__init__(tier, window, share, retry_after_s)
        self.tier = tier
        self.window = window
        self.share = share
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        if self.retry_after_s is None:
            return (
                f"the tier {self.tier} may spend {self.share:.0%} of the {self.window}, and the request "
                "could take more than that; ask for auto, or for less"
            )
        return (
            f"the tier {self.tier} has spent its share of the {self.window} ({self.share:.0%}); "
            f"ask for auto, or again in {self.retry_after_s:.0f} s"
        )


class RequestTooLarge(PlanRefused):
    """It would not fit an empty window (or the request's own ceiling); `limit` names what is too small."""

    def __init__(self, needed_tokens: int, limit_tokens: int, limit: str) -> None:
        super().__init__(needed_tokens, limit_tokens, limit)
        self.needed_tokens = needed_tokens
        self.limit_tokens = limit_tokens
        self.limit = limit

    def __str__(self) -> str:
        return (
            f"the request needs {self.needed_tokens} tokens and {self.limit} allows "
            f"{self.limit_tokens}; shorten the messages or lower max_completion_tokens"
        )


class PriceUnknown(PlanRefused):
    """A budget in money or GPU time, and tiers that nobody has priced; an unknown price is never free."""

    def __init__(self, tiers: tuple[str, ...], unit: Unit) -> None:
        super().__init__(tiers, unit)
        self.tiers = tiers
        self.unit = unit

    def __str__(self) -> str:
        return (
            f"there is a budget in {SAID[self.unit][0]}, and the tier {' and '.join(self.tiers)} has no "
            "known price; ask for another tier, or have the operator set its usd_per_hour"
        )


class NoArm(PlanRefused):
    """Nothing answers to what was asked; `unavailable` where only a tier's absence is in the way."""

    def __init__(self, problem: str, *, unavailable: bool = False) -> None:
        super().__init__(problem)
        self.unavailable = unavailable

    def __reduce__(self) -> tuple[Any, ...]:
        return (_no_arm, (self.args[0], self.unavailable))


def _no_arm(problem: str, unavailable: bool) -> NoArm:
    return NoArm(problem, unavailable=unavailable)


class LedgerError(PolicyError):
    """The ledger refused, or could not answer."""


class BudgetDenied(LedgerError):
    """Too little is left. Scope, window and unit are those that cover the smallest part of what was asked.

    `remaining` is what that window has left, in that unit; `left` the least that any window has left, of each
    limited unit: a smaller request must fit it. `retry_after_s` runs to the edge of the last window that is
    short: then this request fits again, if it is within the limits at all.
    """

    def __init__(
        self,
        scope: str,
        window: str,
        remaining: int,
        retry_after_s: float,
        unit: Unit = "tokens",
        left: Mapping[Unit, int] | None = None,
    ) -> None:
        left = {unit: remaining} if left is None else dict(left)
        super().__init__(scope, window, remaining, retry_after_s, unit, left)
        self.scope = scope
        self.window = window
        self.remaining = remaining
        self.retry_after_s = retry_after_s
        self.unit = unit
        self.left = left

    def __str__(self) -> str:
        return (
            f"the {self.window} budget of {self.scope} has {in_words(self.unit, self.remaining)} left; "
            f"ask for less, or again in {self.retry_after_s:.0f} s"
        )


class LeaseNotOpen(LedgerError):
    """The lease cannot be used so: `state` is unknown, expired, settled, released or spent."""

    def __init__(self, lease_id: str, state: str) -> None:
        super().__init__(lease_id, state)
        self.lease_id = lease_id
        self.state = state

    def __str__(self) -> str:
        if self.state == "spent":
            return f"lease {self.lease_id} has spent something; settle it, it cannot be released"
        return f"lease {self.lease_id} is {self.state}; reserve a new one"


class StoreUnavailable(LedgerError):
    """Redis refused, failed or timed out. Whether the command ran is *unknown*: retry or release by id."""


class StoreDamaged(StoreUnavailable):
    """The store serves, but not these keys: somebody wrote something else there. `what`: whose."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what

    def __str__(self) -> str:
        return f"the keys of {self.what} cannot be read; their operator must look at them"


class LimitExceeded(PolicyError):
    """`kind` is requests, tokens or concurrency; `retry_after_s` is None where waiting cannot help.

    `usage` is the state of all limits, for the x-ratelimit headers of the refusal; `scope` is whose limit it
    is, the tenant's or a key's.
    """

    def __init__(
        self, kind: str, retry_after_s: float | None, usage: LimitUsage | None = None, scope: str = "tenant"
    ) -> None:
        super().__init__(kind, retry_after_s, usage, scope)
        self.kind = kind
        self.retry_after_s = retry_after_s
        self.usage = usage
        self.scope = scope

    def __str__(self) -> str:
        if self.retry_after_s is None:
            return f"the request alone is above the {self.kind} limit{self._whose}; make it smaller"
        return f"the {self.kind} limit{self._whose} is reached; try again in {self.retry_after_s:.1f} s"

    @property
    def _whose(self) -> str:
        return " of this key" if self.scope.startswith("key:") else ""
