"""The log as whoever exports it wants it: each decision once, joined with the feedback that came for it."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

from router.decisions.log import BEGINNING, PAGE, DecisionLog, Logged, order, scores
from router.decisions.record import Decision

REMEMBERED = 50_000  # decisions whose repeats are noticed: a repeat follows soon
CLOCKS_MS = 60_000  # by which the clocks of replicas and store may differ


class Reader:
    """`seen` entries were read so far, `unreadable` of them are no decisions, `total` were there at first.

    `tenant` None is all; `since_ms` is Unix time. Methods raise LogUnavailable.
    """

    def __init__(self, log: DecisionLog, tenant: str | None = None, since_ms: int = 0) -> None:
        self._log = log
        self._tenant = tenant
        self._since_ms = since_ms
        self._scores: dict[str, float] = {}
        self._ids: OrderedDict[str, None] = OrderedDict()
        # A decision is logged when it ends, so never long before the time at which it began.
        self._position = f"{since_ms - CLOCKS_MS}-0" if since_ms > CLOCKS_MS else BEGINNING
        self._end = (0, 0)
        self.seen = self.unreadable = self.total = 0

    async def open(self) -> None:
        """Fix what is read: what is logged from now on is for the next time."""
        self.total = await self._log.length()
        latest = await self._log.last(1)
        self._end = order(latest[0].position) if latest else (0, 0)
        self._scores = await scores(self._log, self._tenant)

    async def page(self) -> list[Decision] | None:
        """The next of them, oldest first (maybe none of a page is wanted); None at the end."""
        page = await self._log.after(self._position, PAGE)
        page = [logged for logged in page if order(logged.position) <= self._end]
        if not page:
            return None
        self._position = page[-1].position
        self.seen += len(page)
        return [decision for logged in page if (decision := self._wanted(logged)) is not None]

    def _wanted(self, logged: Logged) -> Decision | None:
        decision = logged.decision
        if decision is None:
            self.unreadable += 1
            return None
        if self._tenant not in (None, decision.tenant) or decision.at_ms < self._since_ms:
            return None
        if decision.decision_id in self._ids:
            return None
        self._ids[decision.decision_id] = None
        if len(self._ids) > REMEMBERED:
            self._ids.popitem(last=False)
        return replace(decision, score=self._scores.get(decision.decision_id, decision.score))
