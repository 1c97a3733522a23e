"""Changing what is published: the part that is the same for policies and for classifiers.

Each change is one atomic step in the store, made from what was seen there; where somebody else was faster it
is made again from what is there now. A command of which nobody knows whether it ran is looked for first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from policies.errors import NotSealed, PublicationRefused, StoreUnavailable, UnknownVersion
from policies.published import BOOT, Action, Entry, Published
from policies.versions import Versions, unknown

ATTEMPTS = 5
LEAST_PREFIX = 4


class Paper(Protocol):
    """A document that was checked, with the text that it came from; `name` is for people."""

    @property
    def version(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def text(self) -> str: ...


P = TypeVar("P", bound=Paper)


@dataclass(frozen=True, slots=True)
class Change:
    """What was in force before and after; `changed` is False where all was as wanted already."""

    before: Published
    after: Published
    changed: bool


@dataclass(frozen=True, slots=True)
class Said:
    """What the history says of a change; `version` None: the one that it makes current."""

    action: Action
    note: str
    version: str | None = None
    name: str = ""

    def entry(self, by: str, before: Published, after: Published) -> Entry:
        action, version, canary = self.action, self.version or after.current, after.canary
        if action == "rollback" and after.current == before.current and before.canary is not None:
            action, version = "end canary", before.canary.version
        elif action == "end shadow":
            version = before.shadow
        told = canary if action == "canary" else None
        return Entry(
            number=after.number,
            at_ms=after.at_ms,
            by=by,
            action=action,
            version=version,
            name=self.name,
            note=self.note[:500],
            percent=told.percent if told else None,
            tenant=told.tenant if told else None,
        )


class Changes(Generic[P]):
    """Makes changes in the name of `by`; `parse` reads a kept text under its version, and raises its own."""

    def __init__(self, versions: Versions, by: str, parse: Callable[[str, str], P]) -> None:
        self._versions = versions
        self._by = by[:200]
        self._parse = parse

    async def rollback(self, version: str | None = None, note: str = "") -> Change:
        """To a version (or "boot"); without one the canary ends, or else the version before comes back.

        Raises UnknownVersion, and what `parse` raises where this release cannot read that version.
        """
        if version is None:
            return await self.change(lambda state: state.undone(), Said("rollback", note))
        target = None if version == BOOT else (await self.read(version)).version
        return await self.change(lambda state: state.rolled_back(target), Said("rollback", note))

    async def read(self, version: str) -> P:
        """A kept document by its version or the beginning of one. Raises UnknownVersion, and as `parse`."""
        found = await self._resolve(version)
        return self._parse(await self._versions.document(found), found)

    async def text(self, version: str) -> str:
        """As it was published, whether this release can read it or not. Raises UnknownVersion."""
        return await self._versions.document(await self._resolve(version))

    async def _resolve(self, version: str) -> str:
        known = await self._versions.known()
        if version in known:
            return version
        fits = [name for name in known if name.startswith(version)] if len(version) >= LEAST_PREFIX else []
        if len(fits) > 1:
            raise UnknownVersion(f"several versions begin with {version}: {', '.join(fits)}; name more of it")
        if not fits:
            raise unknown(version, self._versions.shelf)
        return fits[0]

    async def change(
        self,
        follow: Callable[[Published], Published],
        said: Said,
        document: P | None = None,
        *,
        force: bool = False,
    ) -> Change:
        """One change, from whatever is published to what follows from it.

        `force` also replaces what a stranger's seal is on. Raises StoreUnavailable, NotSealed, and
        PublicationRefused where it does not follow.
        """
        shelf = self._versions.shelf
        mine: Published | None = None  # what a command of unknown fate would have written
        before = Published()
        for _ in range(ATTEMPTS):
            raw = await self._versions.raw_state()
            state = self._opened(raw, force)
            if mine is not None and state == mine:
                return Change(before, mine, True)
            before, after = state, follow(state)
            if after.same(before):
                await self._mend(document)
                return Change(before, after, False)
            after = after.model_copy(update={"before": after.before[: shelf.way_back]})
            now_ms = await self._versions.now_ms()
            after = after.dated(before.number + 1, max(now_ms, before.at_ms + 1))
            entry = said.entry(self._by, before, after)
            pair = None if document is None else (document.version, document.text)
            forget = await self._outdated(after.versions())
            try:
                if await self._versions.commit(raw, after, entry, pair, forget):
                    return Change(before, after, True)
            except StoreUnavailable:
                mine = after
        if mine is not None:
            raise StoreUnavailable(
                "the budget store did not answer, and whether the change was made is unknown; "
                f"look with `{shelf.command}`"
            )
        raise PublicationRefused(f"others publish at the same time; look with `{shelf.command}`, then again")

    def _opened(self, raw: bytes, force: bool) -> Published:
        try:
            return self._versions.opened(raw)
        except NotSealed:
            if not force:
                raise
            return Published()

    async def _mend(self, document: P | None) -> None:
        """What is published again is kept again, should the store have lost it."""
        if document is None:
            return
        try:
            await self._versions.document(document.version)
        except (UnknownVersion, NotSealed):
            await self._versions.keep(document.version, document.text)

    async def _outdated(self, needed: frozenset[str]) -> list[str]:
        """Documents beyond the last of the history, as many as the shelf keeps, that nothing refers to."""
        known = await self._versions.known()
        if len(known) <= self._versions.shelf.keep:
            return []
        recent = dict.fromkeys(entry.version for entry in await self._versions.history())
        kept = {*list(recent)[: self._versions.shelf.keep], *needed}
        kept |= {report.boot for report in await self._versions.reports()}
        return [version for version in known if version not in kept]
