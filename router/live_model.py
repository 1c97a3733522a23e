"""The classifier in force on one replica: it follows what is published, and keeps the last good one."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from classifier.artifact import Artifact, load
from classifier.errors import ArmsDiffer, ArtifactForbidden, ClassifierError
from classifier.meaning import encoder_for
from classifier.packed import pack, unpack
from classifier.predictor import DEFAULT_ARTIFACT
from policies.errors import PolicyError, StoreUnavailable
from policies.published import shown
from policies.versions import Report, Versions
from router.following import Follower

log = logging.getLogger(__name__)

Arms = Callable[[], Awaitable[Collection[str]]]
"""The arms of the policy in force."""


@dataclass(frozen=True, slots=True)
class BootModel:
    """The app config's classifier; `text` as it would be published, None where it is too large for that."""

    artifact: Artifact
    text: str | None = None


def boot_model(place: str | Path | None) -> BootModel:
    """Of a directory, or the one that comes with the package. Raises ArtifactError."""
    directory = DEFAULT_ARTIFACT if place is None else place
    try:
        packed = pack(directory)
        return BootModel(packed.artifact, packed.text)
    except ArtifactForbidden:
        return BootModel(load(directory))  # its size is no harm here; whatever else it was is raised again


def check_arms(artifact: Artifact, arms: Collection[str]) -> None:
    """Raise ArmsDiffer unless it predicts two of the policy's arms, or the only one.

    Below that there is nothing to choose between, and every request would get the plainest arm.
    """
    known = [arm for arm in artifact.arms if arm in arms]
    if len(known) < min(2, len(arms)):
        raise ArmsDiffer(
            f"the classifier {artifact.version} is for other arms ({_some(artifact.arms)}) than the policy "
            f"in force ({_some(arms)}); train one on outcomes of the policy's arms"
        )


def _some(arms: Collection[str]) -> str:
    named = sorted(arms)
    return ", ".join(named[:6]) + (f" and {len(named) - 6} more" if len(named) > 6 else "")


Prepare = Callable[[Artifact], Callable[[], None]]
"""Readies an artifact in a thread (it may have an encoder to load) and gives the swap, which is instant."""


class LiveModel(Follower):
    """Follows `versions`, has each new artifact prepared, and swaps it in. For one event loop.

    `prepare` raises ArtifactError, OSError or ImportError for what cannot run here. `refused` is called once
    for each published classifier that is not taken; `close` when it ends.
    """

    def __init__(
        self,
        versions: Versions,
        boot: BootModel,
        prepare: Prepare,
        *,
        arms: Arms,
        replica: str,
        refused: Callable[[], None] = lambda: None,
        close: Callable[[], Awaitable[object]] | None = None,
        poll_s: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(versions, replica=replica, poll_s=poll_s, clock=clock)
        self._boot = boot
        self._artifact = boot.artifact
        self._prepare = prepare
        self._arms = arms
        self._on_refusal = refused
        self._close = close
        self._told: tuple[str, str] | None = None

    @property
    def in_force(self) -> str:
        return self._artifact.version

    def boots(self, boot: BootModel) -> None:
        """The app config names another classifier from now on; it decides where none is published."""
        self._boot, self._kept_boot = boot, False
        self._seen = None  # the next look takes it

    async def aclose(self) -> None:
        await super().aclose()
        if self._close is not None:
            await self._close()

    async def _take(self, raw: bytes) -> str | None:
        state = self._opened(raw)
        try:
            artifact = await self._load(state.current)
            swap = None
            if artifact.version != self._artifact.version:
                swap = await asyncio.to_thread(self._prepare, artifact)
        except StoreUnavailable:
            raise
        except (ClassifierError, PolicyError, OSError, ImportError, MemoryError) as error:
            self._state = state
            return self._refuse(shown(state.current), " ".join(str(error).split()) or "it is too large")
        self._state, self._told = state, None
        if swap is not None:
            before, self._artifact = self._artifact, artifact
            swap()
            log.info(
                "classifier in force: %s instead of %s (change %d)",
                artifact.version,
                before.version,
                state.number,
            )
        return None

    async def _load(self, version: str | None) -> Artifact:
        """Read, unpacked and checked in a thread: requests go on meanwhile.

        Raises ArtifactError, UnknownVersion, NotSealed, StoreUnavailable.
        """
        for known in (self._artifact, self._boot.artifact):
            if version == known.version:
                return known
        if version is None:
            return self._boot.artifact
        text = await self._versions.document(version)
        artifact = (await asyncio.to_thread(unpack, text, version)).artifact
        check_arms(artifact, await self._arms())
        if artifact.weights.meaning is not None:
            await asyncio.to_thread(encoder_for, artifact.weights.meaning)
        return artifact

    def _refuse(self, version: str, problem: str) -> str:
        if self._told != (version, problem):
            self._told = (version, problem)
            self._on_refusal()
        return problem

    def _report(self) -> Report:
        return Report(
            replica=self._replica,
            number=self._state.number,
            boot=self._boot.artifact.version,
            current=self._artifact.version,
        )

    def _boot_text(self) -> tuple[str, str] | None:
        return None if self._boot.text is None else (self._boot.artifact.version, self._boot.text)
