"""What decides requests right now: a policy with its keys, and a canary and a shadow where there are any.

Immutable, and swapped as a whole between requests: a request keeps the policy that it began with.
"""

from __future__ import annotations

from dataclasses import dataclass

from policies.keys import KeyRing
from policies.published import Canary
from policies.schema import Policy, TenantPolicy
from router.request import Caller
from router.shadow import Shadow


@dataclass(frozen=True, slots=True)
class Trial:
    """A canary's policy, and whom it decides for."""

    rule: Canary
    policy: Policy


@dataclass(frozen=True, slots=True)
class Ruling:
    """`keys` are those of `policy`: a canary neither lets anybody in nor keeps anybody out."""

    policy: Policy
    keys: KeyRing
    trial: Trial | None = None
    shadow: Shadow | None = None

    def tries(self, caller: Caller) -> bool:
        """Does the canary decide for this caller?

        Only where it counts the caller's spend where the current policy does: without the tenant or the key
        there, or with the tenant elsewhere, its budgets would start from nothing.
        """
        trial = self.trial
        if trial is None or not trial.rule.takes(caller.tenant, caller.key_id):
            return False
        now, then = self.policy.tenants.get(caller.tenant), trial.policy.tenants.get(caller.tenant)
        return now is not None and then is not None and _counts_alike(now, then, caller.key_id)


def _counts_alike(now: TenantPolicy, then: TenantPolicy, key_id: str) -> bool:
    listed = [key.id for key in now.keys]
    return now.account == then.account and (key_id not in listed or key_id in (key.id for key in then.keys))
