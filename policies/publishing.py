"""Publishing: a checked document becomes current, a canary or a shadow; and the ways back.

Each change is one atomic step in the store, made from what was seen there; where somebody else was faster it
is made again from what is there now. A command of which nobody knows whether it ran is looked for first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from policies.errors import NotSealed, PublicationRefused, StoreUnavailable, UnknownVersion
from policies.loader import parse_policy
from policies.published import BOOT, Action, Canary, Entry, Published
from policies.schema import Policy
from policies.versions import KEEP_VERSIONS, Versions, unknown

ATTEMPTS = 5
LEAST_PREFIX = 4


@dataclass(frozen=True, slots=True)
class Change:
    """What was in force before and after; `changed` is False where all was as wanted already."""

    before: Published
    after: Published
    changed: bool


@dataclass(frozen=True, slots=True)
class Document:
    """A policy that was checked, with the text that it came from."""

    policy: Policy
    text: str

    @property
    def version(self) -> str:
        return self.policy.version


class Publisher:
    """Changes what is published. `by` says who, for the history."""

    def __init__(self, versions: Versions, by: str) -> None:
        self._versions = versions
        self._by = by[:200]

    async def push(self, document: Document, note: str = "", *, force: bool = False) -> Change:
        """The document decides for everybody. `force` also replaces what a stranger's seal is on.

        Every change raises StoreUnavailable, NotSealed, and PublicationRefused where it does not follow.
        """
        version = document.version
        said = _Said("push", note, version, document.policy.name)
        return await self._change(lambda state: state.pushed(version), said, document, force=force)

    async def canary(self, document: Document, percent: float, tenant: str | None, note: str = "") -> Change:
        """It decides for a share of the keys; the versions of everybody else stay."""
        canary = Canary(version=document.version, percent=percent, tenant=tenant)
        said = _Said("canary", note, canary.version, document.policy.name)
        return await self._change(lambda state: state.with_canary(canary), said, document)

    async def shadow(self, document: Document, note: str = "") -> Change:
        """It decides beside the policy in force, and nothing is done about it."""
        version = document.version
        said = _Said("shadow", note, version, document.policy.name)
        return await self._change(lambda state: state.with_shadow(version), said, document)

    async def end_shadow(self, note: str = "") -> Change:
        return await self._change(lambda state: state.with_shadow(None), _Said("end shadow", note))

    async def promote(self, note: str = "") -> Change:
        return await self._change(lambda state: state.promoted(), _Said("promote", note))

    async def rollback(self, version: str | None = None, note: str = "") -> Change:
        """To a version (or "boot"); without one the canary ends, or else the version before comes back.

        Raises UnknownVersion, and PolicyFileError where this release cannot read that version.
        """
        if version is None:
            return await self._change(lambda state: state.undone(), _Said("rollback", note))
        target = None if version == BOOT else (await self.read(version)).version
        return await self._change(lambda state: state.rolled_back(target), _Said("rollback", note))

    async def read(self, version: str) -> Document:
        """A kept document by its version or the beginning of one. Raises UnknownVersion, PolicyFileError."""
        found = await self._resolve(version)
        text = await self._versions.document(found)
        return Document(published_policy(text, found), text)

    async def text(self, version: str) -> str:
        """As it was pushed, whether this release can read it or not. Raises UnknownVersion."""
        return await self._versions.document(await self._resolve(version))

    async def _resolve(self, version: str) -> str:
        known = await self._versions.known()
        if version in known:
            return version
        fits = [name for name in known if name.startswith(version)] if len(version) >= LEAST_PREFIX else []
        if len(fits) > 1:
            raise UnknownVersion(f"several versions begin with {version}: {', '.join(fits)}; name more of it")
        if not fits:
            raise unknown(version)
        return fits[0]

    async def _change(
        self,
        follow: Callable[[Published], Published],
        said: _Said,
        document: Document | None = None,
        *,
        force: bool = False,
    ) -> Change:
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
                "look with `acr policy list`"
            )
        raise PublicationRefused("others publish at the same time; look with `acr policy list`, then again")

    def _opened(self, raw: bytes, force: bool) -> Published:
        try:
            return self._versions.opened(raw)
        except NotSealed:
            if not force:
                raise
            return Published()

    async def _mend(self, document: Document | None) -> None:
        """What is pushed again is kept again, should the store have lost it."""
        if document is None:
            return
        try:
            await self._versions.document(document.version)
        except (UnknownVersion, NotSealed):
            await self._versions.keep(document.version, document.text)

    async def _outdated(self, needed: frozenset[str]) -> list[str]:
        """Documents beyond the last KEEP_VERSIONS of the history that nothing refers to."""
        known = await self._versions.known()
        if len(known) <= KEEP_VERSIONS:
            return []
        recent = dict.fromkeys(entry.version for entry in await self._versions.history())
        kept = {*list(recent)[:KEEP_VERSIONS], *needed}
        kept |= {report.boot for report in await self._versions.reports()}
        return [version for version in known if version not in kept]


@dataclass(frozen=True, slots=True)
class _Said:
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


def published_policy(text: str, version: str) -> Policy:
    """A document out of the store, under the version that it was published as.

    A later release may resolve the same text to more fields, and so to another hash; operators and replies
    know it by this one. Raises PolicyFileError.
    """
    return replace(parse_policy(text, f"policy {version}"), version=version)
