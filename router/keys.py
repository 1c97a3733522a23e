"""Keys of cached answers, and the seal on their values."""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import asdict, fields

from router.request import RouteRequest

# Part of every key: a new form of replies or requests finds nothing of the old one.
FORMAT = "1"

# What does not change the answer. Whatever is added to RouteRequest counts unless it is named here.
_NOT_IN_KEY = frozenset({"request_id", "trace_id", "progress", "cache_mode", "max_age_s"})
_KEY_FIELDS = tuple(field.name for field in fields(RouteRequest) if field.name not in _NOT_IN_KEY)

_MAC_BYTES = 32


def cache_key(
    secret: bytes,
    *,
    tenant: str,
    policy_version: str,
    ceiling: str,
    engine_models: str,
    request: RouteRequest,
) -> str:
    """Hex HMAC-SHA256 over canonical JSON.

    `ceiling` names the compute that the answer may use, so that an answer computed with less is never
    served for more; `engine_models` names the models that may have given it.
    """
    asked = {name: getattr(request, name) for name in _KEY_FIELDS}
    asked["messages"] = [[message.role, message.content] for message in request.messages]
    asked["verify"] = None if request.verify is None else asdict(request.verify)
    whole = [FORMAT, tenant, policy_version, ceiling, engine_models, asked]
    canonical = json.dumps(whole, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return hmac.new(secret, b"key\0" + canonical.encode("ascii"), hashlib.sha256).hexdigest()


def seal(secret: bytes, key: str, tenant: str, value: bytes) -> bytes:
    """MAC (32 bytes), length of the tenant (2 bytes), tenant, value."""
    name = tenant.encode("utf-8")
    sealed = len(name).to_bytes(2, "big") + name + value
    return _mac(secret, key, sealed) + sealed


def unseal(secret: bytes, key: str, tenant: str, data: bytes) -> bytes | None:
    """The value, or None unless it was sealed with this secret under this key for this tenant."""
    mac, sealed = data[:_MAC_BYTES], data[_MAC_BYTES:]
    if not hmac.compare_digest(mac, _mac(secret, key, sealed)):
        return None
    end = 2 + int.from_bytes(sealed[:2], "big")
    return sealed[end:] if sealed[2:end] == tenant.encode("utf-8") else None


def _mac(secret: bytes, key: str, sealed: bytes) -> bytes:
    name = key.encode("utf-8")
    return hmac.digest(secret, b"value\0" + len(name).to_bytes(2, "big") + name + sealed, "sha256")
