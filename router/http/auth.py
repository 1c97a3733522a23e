"""The bearer token of a request; what it is worth only the service knows."""

from __future__ import annotations

from router.http.headers import RequestHead
from router.request import Caller, Service

MAX_KEY_BYTES = 512


def bearer(authorization: bytes | None) -> str | None:
    """The token of `Bearer TOKEN`, None where there is none or it cannot be a key."""
    if not authorization:
        return None
    scheme, _, token = authorization.partition(b" ")
    token = token.strip()
    if scheme.lower() != b"bearer" or not token or len(token) > MAX_KEY_BYTES:
        return None
    text = token.decode("latin-1")
    return text if text.isascii() and text.isprintable() and " " not in text else None


def authenticate(service: Service, head: RequestHead) -> Caller:
    """Raise AuthenticationFailed unless the key is known to the service."""
    return service.authenticate(bearer(head.authorization))
