"""API keys: how one is made, and whose it is. Only hashes are kept; a key is shown once."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from hashlib import sha256

from policies.schema import Policy

PREFIX = "acr-"
MAX_KEY_CHARS = 512
LOCAL_KEY_ID = "local"
"""The id of the keys that `acr serve` makes for its machine; no policy lists them."""


def create_key() -> tuple[str, str]:
    """A new key (256 random bits) and the sha256 hex digest that goes into the policy."""
    key = PREFIX + secrets.token_urlsafe(32)
    return key, hash_key(key)


def hash_key(key: str) -> str:
    """sha256 hex of a key. No salt and no stretching: 256 random bits cannot be guessed."""
    return sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


class KeyRing:
    """Whose key is it? The policy's keys, and `extra` ones that map sha256 hex to (tenant, key id).

    Extra keys of tenants that the policy does not know are left out.
    """

    def __init__(self, policy: Policy, extra: Mapping[str, tuple[str, str]] | None = None) -> None:
        self._owners = {
            digest: owner for digest, owner in (extra or {}).items() if owner[0] in policy.tenants
        }
        self._owners.update(
            {key.sha256: (tenant.name, key.id) for tenant in policy.tenants.values() for key in tenant.keys}
        )

    def lookup(self, key: str) -> tuple[str, str] | None:
        """(tenant, key id), or None."""
        if len(key) > MAX_KEY_CHARS:
            return None
        # A dictionary lookup is not constant-time, and need not be: what it compares are digests. Whoever
        # times it learns about the sha256 of their own guess, from which no next guess can be built.
        return self._owners.get(hash_key(key))
