"""Decision ids that tell whose they are, the lot that an id draws, and digests of arms."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from functools import lru_cache

from policies.arm_spec import ArmSpec

_CONTEXT = b"acr decision ids 1"
_PREFIX = "dec-"
_RANDOM_BYTES, _TAG_BYTES = 12, 8


class DecisionIds:
    """`dec-`, 24 random hex digits, and 16 of an HMAC over them and the tenant.

    So whoever shares the secret knows without any look-up whether an id was given to a tenant.
    """

    def __init__(self, secret: bytes) -> None:
        self._key = hmac.digest(secret, _CONTEXT, "sha256")

    def new(self, tenant: str) -> str:
        number = secrets.token_hex(_RANDOM_BYTES)
        return f"{_PREFIX}{number}{self._tag(number, tenant)}"

    def owns(self, tenant: str, decision_id: str) -> bool:
        """Was this id given to a decision of this tenant's?"""
        number = decision_id[len(_PREFIX) : len(_PREFIX) + 2 * _RANDOM_BYTES]
        whole = f"{_PREFIX}{number}{self._tag(number, tenant)}"
        return hmac.compare_digest(whole.encode(), decision_id.encode("utf-8", "replace"))

    def _tag(self, number: str, tenant: str) -> str:
        said = f"{tenant}\0{number}".encode("utf-8", "replace")
        return hmac.digest(self._key, said, "sha256")[:_TAG_BYTES].hex()


def draw_of(decision_id: str) -> float:
    """The decision's lot in [0, 1): uniform over ids, and the same whenever it is computed again."""
    digest = hashlib.sha256(b"acr exploration 1 " + decision_id.encode("utf-8", "replace")).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


@lru_cache(maxsize=4096)
def spec_digest(spec: ArmSpec) -> str:
    """8 hex digits of an arm's resolved spec: equal for arms that do the same, whatever they are called."""
    text = json.dumps(spec.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]
