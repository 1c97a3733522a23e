"""What is published of one kind: documents by version, the state that replicas follow, a history.

Policies are published so, and classifiers; a shelf says which.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Protocol

from pydantic import Field

from policies.arm_spec import PolicyModel
from policies.errors import UnknownVersion
from policies.published import MAX_BEFORE, Count, Entry, Published

MAX_HISTORY = 500
KEEP_VERSIONS = 100
REPORT_TTL_S = 5.0


@dataclass(frozen=True, slots=True)
class Shelf:
    """One kind of documents: what it is called, where it lies, how many are kept and how far back goes.

    `command` lists them, the others are in its `group`; `context` makes the seals of one shelf mean nothing
    on another.
    """

    noun: str
    command: str
    prefix: str
    context: bytes
    keep: int = KEEP_VERSIONS
    way_back: int = MAX_BEFORE

    @property
    def group(self) -> str:
        return self.command.removesuffix(" list")

    @property
    def plural(self) -> str:
        return "policies" if self.noun == "policy" else f"{self.noun}s"


POLICIES = Shelf("policy", "acr policy list", "acr-policy:{published}:", b"acr published policies 1")
# A classifier is as large as a thousand policies, and lies in the memory of the budgets' store.
CLASSIFIERS = Shelf(
    "classifier", "acr model list", "acr-model:{published}:", b"acr published classifiers 1", 8, 5
)


class Report(PolicyModel):
    """What a replica says about itself: the versions that decide there, and what it could not follow.

    `boot` is the version that its app config names, `left_out` are arms of a policy that no tier can run.
    """

    replica: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,80}$")]
    number: Count
    boot: str
    current: str
    canary: str | None = None
    shadow: str | None = None
    left_out: tuple[str, ...] = ()
    trouble: str | None = None


class Tally(PolicyModel):
    """What a shadow would have done, beside what was done; one replica's count since its start.

    `planned` requests were compared, `differ` of them would have begun with another arm (`refused` with
    none); `errors` could not be compared. Tokens are those that the first steps of both plans hold.
    """

    planned: Count = 0
    differ: Count = 0
    refused: Count = 0
    errors: Count = 0
    tokens: Count = 0
    shadow_tokens: Count = 0

    def plus(self, other: Tally) -> Tally:
        mine, theirs = self.model_dump(), other.model_dump()
        return Tally(**{name: mine[name] + theirs[name] for name in mine})


class Versions(Protocol):
    """What is published. Every operation raises StoreUnavailable where the store does not answer."""

    @property
    def shelf(self) -> Shelf: ...

    async def now_ms(self) -> int:
        """The store's time."""
        ...

    async def raw_state(self) -> bytes:
        """The state as the store has it, believed or not; b"" where nothing was published."""
        ...

    def opened(self, raw: bytes) -> Published:
        """What a raw state says. Raises NotSealed where a stranger wrote it."""
        ...

    async def document(self, version: str) -> str:
        """The text as it was published. Raises UnknownVersion, NotSealed."""
        ...

    async def known(self) -> tuple[str, ...]:
        """Every version whose document is kept."""
        ...

    async def keep(self, version: str, text: str) -> None:
        """Keep a document that nobody published: what the app config of a replica names."""
        ...

    async def commit(
        self,
        seen: bytes,
        state: Published,
        entry: Entry,
        document: tuple[str, str] | None = None,
        forget: Collection[str] = (),
    ) -> bool:
        """Replace the state if it is still `seen`, with all that goes with it; False if it is not."""
        ...

    async def history(self, count: int = MAX_HISTORY) -> list[Entry]:
        """Changes, newest first; what is not sealed is left out."""
        ...

    async def report(self, report: Report) -> None: ...

    async def reports(self) -> list[Report]:
        """Of the replicas that reported within REPORT_TTL_S."""
        ...

    async def tally(self, version: str, replica: str, tally: Tally) -> None:
        """A replica's whole count: said twice it counts once."""
        ...

    async def tallied(self, version: str) -> Tally:
        """The sum over all replicas."""
        ...


def unknown(version: str, shelf: Shelf) -> UnknownVersion:
    return UnknownVersion(
        f"the store keeps no {shelf.noun} {version}; `{shelf.command}` names those that it does"
    )
