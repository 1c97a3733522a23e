"""What an operator may set about the HTTP layer."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class HttpSettings(BaseModel):
    """Bounds and rhythms of the HTTP layer; the defaults are the contract's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_body_bytes: int = Field(default=1 << 20, ge=1)
    max_header_bytes: int = Field(default=32 << 10, ge=1024)
    body_timeout_s: float = Field(default=10.0, gt=0)
    heartbeat_s: float = Field(default=5.0, gt=0)
    # How long a stream may stay silent before its headers and a comment go out.
    first_event_s: float = Field(default=0.1, ge=0)
    coalesce_s: float = Field(default=0.03, ge=0)
    docs: bool = True
