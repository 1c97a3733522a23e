"""What is published: the version in force, a canary, a shadow, and how one state follows from another. Pure.

Versions name documents, policies or classifiers; `None` is what the app config names and each replica starts
with ("boot").
"""

from __future__ import annotations

from hashlib import sha256
from typing import Annotated, Literal

from pydantic import Field

from policies.arm_spec import PolicyModel
from policies.errors import PublicationRefused
from policies.schema import TenantName

BOOT = "boot"
"""What the app config's own is called where a version is named."""

MAX_BEFORE = 20

Version = Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
Count = Annotated[int, Field(ge=0, lt=2**53)]
Action = Literal["push", "canary", "shadow", "promote", "rollback", "end canary", "end shadow"]


class Canary(PolicyModel):
    """A version that decides for `percent` of a tenant's keys (of every tenant's where none is named)."""

    version: Version
    percent: Annotated[float, Field(gt=0.0, le=100.0)]
    tenant: TenantName | None = None

    def takes(self, tenant: str, key_id: str) -> bool:
        """Is this key on the canary's side? The same key always is, and stays when the percentage grows.

        The first 8 bytes of sha256(version, tenant, key id; a NUL between them) as a number from 0 to 1 are
        compared with the percentage, so each canary draws its keys anew.
        """
        if self.tenant not in (None, tenant):
            return False
        digest = sha256("\0".join((self.version, tenant, key_id)).encode("utf-8")).digest()
        return int.from_bytes(digest[:8], "big") < self.percent / 100.0 * 2.0**64


class Published(PolicyModel):
    """The state that all replicas follow: one small value, replaced as a whole.

    `number` counts the changes; `at_ms` is the store's time of the last one, and grows. `before` is what a
    rollback goes back to, newest first.
    """

    number: Count = 0
    at_ms: Count = 0
    current: Version | None = None
    canary: Canary | None = None
    shadow: Version | None = None
    before: Annotated[tuple[Version | None, ...], Field(max_length=MAX_BEFORE)] = ()

    def same(self, other: Published) -> bool:
        """Does the other say the same, whenever it was said?"""
        return self.dated(0, 0) == other.dated(0, 0)

    def dated(self, number: int, at_ms: int) -> Published:
        return self.model_copy(update={"number": number, "at_ms": at_ms})

    def versions(self) -> frozenset[str]:
        """Every version that this state needs."""
        canary = self.canary.version if self.canary else None
        return frozenset(v for v in (self.current, canary, self.shadow, *self.before) if v is not None)

    def pushed(self, version: str) -> Published:
        """The version decides for everybody; a canary ends. What is current already changes nothing."""
        if version == self.current:
            return self
        return self._current(version, (self.current, *self.before))

    def with_canary(self, canary: Canary) -> Published:
        """Raises PublicationRefused where the version is current already."""
        if canary.version == self.current:
            raise PublicationRefused(f"{canary.version} is current already; a canary must be another version")
        return self.model_copy(update={"canary": canary})

    def with_shadow(self, version: str | None) -> Published:
        """None ends the shadow. Raises PublicationRefused where the version is current already."""
        if version is not None and version == self.current:
            raise PublicationRefused(f"{version} is current already; a shadow must be another version")
        return self.model_copy(update={"shadow": version})

    def promoted(self) -> Published:
        """The canary becomes current. Raises PublicationRefused where there is none."""
        if self.canary is None:
            raise PublicationRefused("there is no canary to promote; push one with --canary PERCENT")
        return self.pushed(self.canary.version)

    def undone(self) -> Published:
        """A running canary ends, and nothing else; without one the version before becomes current again.

        Raises PublicationRefused where there is none before.
        """
        if self.canary is not None:
            return self.model_copy(update={"canary": None})
        if not self.before:
            raise PublicationRefused("nothing was in force before this; name a version, or publish another")
        return self._current(self.before[0], self.before[1:])

    def rolled_back(self, version: str | None) -> Published:
        """The version (None: the app config's policy) becomes current, and a canary ends."""
        if version == self.current:
            return self.model_copy(update={"canary": None})
        if version in self.before:
            return self._current(version, self.before[self.before.index(version) + 1 :])
        return self._current(version, (self.current, *self.before))

    def _current(self, version: str | None, before: tuple[str | None, ...]) -> Published:
        shadow = None if self.shadow == version else self.shadow
        update = {"current": version, "canary": None, "shadow": shadow, "before": before[:MAX_BEFORE]}
        return self.model_copy(update=update)


class Entry(PolicyModel):
    """One change in the history. `version` None is the app config's own."""

    number: Count
    at_ms: Count
    by: Annotated[str, Field(max_length=200)]
    action: Action
    version: Version | None
    name: Annotated[str, Field(max_length=64)] = ""
    note: Annotated[str, Field(max_length=500)] = ""
    percent: float | None = None
    tenant: str | None = None


def shown(version: str | None) -> str:
    """A version as operators read and write it."""
    return BOOT if version is None else version
