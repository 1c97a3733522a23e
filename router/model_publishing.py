"""Publishing classifiers: one that was compared becomes live; and the way back."""

from __future__ import annotations

from classifier.packed import Packed, unpack
from policies.changing import Change, Changes, Said
from policies.errors import PublicationRefused
from policies.published import Published, shown
from policies.versions import Versions


class ModelPublisher(Changes[Packed]):
    """Changes which classifier is published. `by` says who, for the history.

    `read` and `rollback` raise ArtifactError where this release cannot load a version.
    """

    def __init__(self, versions: Versions, by: str) -> None:
        super().__init__(versions, by, unpack)

    async def promote(
        self, packed: Packed, rival: str | None, note: str = "", *, force: bool = False
    ) -> Change:
        """It decides from now on, if `rival`, which it was compared with (None: boot), still does.

        `force` asks neither that nor whose seal is on what is there. Raises StoreUnavailable, NotSealed, and
        PublicationRefused where another classifier has become live meanwhile.
        """

        def follow(state: Published) -> Published:
            if not force and state.current not in (rival, packed.version):
                raise PublicationRefused(
                    f"{shown(state.current)} has become live meanwhile, and the comparison was with "
                    f"{shown(rival)}; run the command again"
                )
            return state.pushed(packed.version)

        said = Said("promote", note, packed.version, packed.name)
        return await self.change(follow, said, packed, force=force)
