"""What is published, in this process: for tests and single replicas. Nothing is sealed."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from policies.published import Entry, Published
from policies.versions import MAX_HISTORY, POLICIES, REPORT_TTL_S, Report, Shelf, Tally, unknown


class MemoryVersions:
    """`policies.versions.Versions`; `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.time, shelf: Shelf = POLICIES) -> None:
        self.shelf = shelf
        self._clock = clock
        self._state = b""
        self._documents: dict[str, str] = {}
        self._history: list[Entry] = []
        self._reports: dict[str, tuple[float, Report]] = {}
        self._tallies: dict[str, dict[str, Tally]] = {}

    async def now_ms(self) -> int:
        return int(self._clock() * 1000)

    async def raw_state(self) -> bytes:
        return self._state

    def opened(self, raw: bytes) -> Published:
        return Published.model_validate_json(raw) if raw else Published()

    async def document(self, version: str) -> str:
        try:
            return self._documents[version]
        except KeyError:
            raise unknown(version, self.shelf) from None

    async def known(self) -> tuple[str, ...]:
        return tuple(sorted(self._documents))

    async def keep(self, version: str, text: str) -> None:
        self._documents[version] = text

    async def commit(
        self,
        seen: bytes,
        state: Published,
        entry: Entry,
        document: tuple[str, str] | None = None,
        forget: Collection[str] = (),
    ) -> bool:
        if seen != self._state:
            return False
        self._state = state.model_dump_json().encode("utf-8")
        if document is not None:
            self._documents[document[0]] = document[1]
        for version in forget:
            self._documents.pop(version, None)
        self._history = [entry, *self._history][:MAX_HISTORY]
        return True

    async def history(self, count: int = MAX_HISTORY) -> list[Entry]:
        return self._history[:count]

    async def report(self, report: Report) -> None:
        self._reports[report.replica] = (self._clock(), report)

    async def reports(self) -> list[Report]:
        since_s = self._clock() - REPORT_TTL_S
        return [report for _, (at_s, report) in sorted(self._reports.items()) if at_s > since_s]

    async def tally(self, version: str, replica: str, tally: Tally) -> None:
        self._tallies.setdefault(version, {})[replica] = tally

    async def tallied(self, version: str) -> Tally:
        total = Tally()
        for tally in self._tallies.get(version, {}).values():
            total = total.plus(tally)
        return total
