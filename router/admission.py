"""One request's way past the rate limits: counted when it comes, corrected when it ends."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable

from policies.errors import LimitExceeded, StoreUnavailable
from policies.limits import LimitUsage, RateLimits
from policies.schema import TenantPolicy
from router.background import Background
from router.outage import Detour
from router.request import LimitState, RouteRequest
from router.translate import limit_state

SLOT_GRACE_S = 30.0


class Admission:
    """Whose limits count is fixed when it is made: a key that is revoked meanwhile gets its slots back."""

    def __init__(
        self,
        limits: RateLimits,
        tenant: TenantPolicy,
        key_id: str,
        background: Background,
        detour: Detour,
    ) -> None:
        self._detour = detour
        self._limits = limits
        self._tenant = tenant
        self._scopes = tenant.limit_scopes(key_id)
        self._background = background
        self._slot_id = secrets.token_hex(8)
        self._inside = False

    async def enter(self, request: RouteRequest, prompt_tokens: int) -> LimitState:
        """Raises LimitExceeded, StoreUnavailable.

        Counted are the prompt and the completions that the caller allows, until it is known what was spent.
        The slots outlive the deadline a little, so that those of a killed replica free themselves.
        """
        tenant = self._tenant
        longest = request.max_completion_tokens or tenant.max_completion_tokens.default
        self._inside = True  # before the answer: a cancelled or timed-out admission may have taken a slot

        async def admitted_by(limits: RateLimits) -> LimitUsage:
            return await limits.admit(
                tenant.name,
                self._scopes,
                slot_id=self._slot_id,
                tokens=request.n * (prompt_tokens + longest),
                least_tokens=prompt_tokens,
                ttl_s=tenant.deadline_s.of(request.deadline_s) + SLOT_GRACE_S,
            )

        try:
            usage = await admitted_by(self._limits)
        except LimitExceeded:
            self._inside = False
            raise
        except StoreUnavailable as error:
            usage = await self._detour.admit(error, admitted_by)
        return limit_state(usage)

    def leave(self, charged_tokens: int | None) -> None:
        """Count what was charged (None: not known here), and free the slots, once; nobody waits for it."""
        if self._inside:
            self._inside = False
            self._background.spawn(self._end(charged_tokens))

    async def _end(self, charged_tokens: int | None) -> None:
        def left(limits: RateLimits) -> Awaitable[None]:
            return limits.leave(self._tenant.name, self._scopes, self._slot_id, tokens=charged_tokens)

        await self._detour.left(self._limits, left)
