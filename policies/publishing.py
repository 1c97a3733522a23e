"""Publishing policies: a checked document becomes current, a canary or a shadow; and the ways back."""

from __future__ import annotations

from dataclasses import dataclass, replace

from policies.changing import Change, Changes, Said
from policies.loader import parse_policy
from policies.published import Canary
from policies.schema import Policy
from policies.versions import Versions


@dataclass(frozen=True, slots=True)
class Document:
    """A policy that was checked, with the text that it came from."""

    policy: Policy
    text: str

    @property
    def version(self) -> str:
        return self.policy.version

    @property
    def name(self) -> str:
        return self.policy.name


class Publisher(Changes[Document]):
    """Changes which policies are published. `by` says who, for the history.

    `read` and `rollback` raise PolicyFileError where this release cannot read a version.
    """

    def __init__(self, versions: Versions, by: str) -> None:
        super().__init__(versions, by, lambda text, version: Document(published_policy(text, version), text))

    async def push(self, document: Document, note: str = "", *, force: bool = False) -> Change:
        """The document decides for everybody. `force` also replaces what a stranger's seal is on.

        Every change raises StoreUnavailable, NotSealed, and PublicationRefused where it does not follow.
        """
        version = document.version
        said = Said("push", note, version, document.name)
        return await self.change(lambda state: state.pushed(version), said, document, force=force)

    async def canary(self, document: Document, percent: float, tenant: str | None, note: str = "") -> Change:
        """It decides for a share of the keys; the versions of everybody else stay."""
        canary = Canary(version=document.version, percent=percent, tenant=tenant)
        said = Said("canary", note, canary.version, document.name)
        return await self.change(lambda state: state.with_canary(canary), said, document)

    async def shadow(self, document: Document, note: str = "") -> Change:
        """It decides beside the policy in force, and nothing is done about it."""
        version = document.version
        said = Said("shadow", note, version, document.name)
        return await self.change(lambda state: state.with_shadow(version), said, document)

    async def end_shadow(self, note: str = "") -> Change:
        return await self.change(lambda state: state.with_shadow(None), Said("end shadow", note))

    async def promote(self, note: str = "") -> Change:
        return await self.change(lambda state: state.promoted(), Said("promote", note))


def published_policy(text: str, version: str) -> Policy:
    """A document out of the store, under the version that it was published as.

    A later release may resolve the same text to more fields, and so to another hash; operators and replies
    know it by this one. Raises PolicyFileError.
    """
    return replace(parse_policy(text, f"policy {version}"), version=version)
