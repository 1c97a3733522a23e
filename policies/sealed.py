"""The seal on what is published: who writes to the store without the secret is not believed.

The key is derived from the secret that the service's replicas share, so that a seal made here means nothing
elsewhere; the context keeps one kind of documents apart from another. A value is bound to its label: a sealed
document moved under another version does not open.
"""

from __future__ import annotations

import hmac
from typing import TypeVar

from pydantic import BaseModel, ValidationError

_MAC_BYTES = 32

M = TypeVar("M", bound=BaseModel)


class Seal:
    """HMAC-SHA256 with a key of its own, in front of the value."""

    def __init__(self, secret: bytes, context: bytes) -> None:
        self._key = hmac.digest(secret, context, "sha256")

    def close(self, label: str, value: bytes) -> bytes:
        """The value with its MAC (32 bytes) in front."""
        return self._mac(label, value) + value

    def open(self, label: str, data: bytes) -> bytes | None:
        """The value, or None unless it was sealed with this secret under this label."""
        mac, value = data[:_MAC_BYTES], data[_MAC_BYTES:]
        return value if hmac.compare_digest(mac, self._mac(label, value)) else None

    def write(self, label: str, value: BaseModel) -> bytes:
        """A model as sealed JSON."""
        return self.close(label, value.model_dump_json().encode("utf-8"))

    def read(self, label: str, data: bytes, kind: type[M]) -> M | None:
        """The model, or None where it is not sealed or not of this kind."""
        value = self.open(label, data)
        try:
            return None if value is None else kind.model_validate_json(value)
        except ValidationError:
            return None

    def _mac(self, label: str, value: bytes) -> bytes:
        name = label.encode("utf-8")
        return hmac.digest(self._key, len(name).to_bytes(2, "big") + name + value, "sha256")
