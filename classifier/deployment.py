"""The classifier as a Ray Serve deployment, for encoders too heavy to live in the ingress."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from ray import serve
from ray.serve import metrics

from classifier.artifact import Artifact, load
from classifier.errors import ArtifactError
from classifier.predictor import DEFAULT_ARTIFACT, Prediction, Predictor

logger = logging.getLogger(__name__)

# Up to here a prediction is a fraction of a millisecond; above, it would hold up the event loop.
_INLINE_CHARS = 4_096
# Prompts for a sentence encoder: what comes within this time goes through it together.
BATCH, BATCH_WAIT_S = 16, 0.005
_PROBE = [{"role": "user", "content": "1 + 1 = ?"}]

Asked = tuple[Predictor, Sequence[Mapping[str, str]]]


class Booted(Protocol):
    """What a replica begins with."""

    @property
    def artifact(self) -> Artifact: ...


class Live(Protocol):
    """Follows what is published; `boots` changes what decides where nothing is."""

    async def start(self) -> None: ...
    def boots(self, boot: Any) -> None: ...


class Following(Protocol):
    """Makes a `Live`, in the replica; None where published classifiers are not followed. Picklable."""

    def boot(self, place: str | None = None) -> Booted: ...
    def on_serve(
        self, boot: Any, prepare: Callable[[Artifact], Callable[[], None]], refused: Callable[[], None]
    ) -> Live | None: ...


@serve.deployment
class ClassifierDeployment:
    """One predictor. `artifact` is a directory, None for the one that comes with the package.

    A new artifact is handed in through `user_config: {artifact: DIR}` while serving; where one is published,
    `following` has that one decide. Prompts for an artifact with a sentence encoder are predicted in batches.
    """

    def __init__(self, artifact: str | None = None, following: Following | None = None) -> None:
        """Raises ArtifactError, OSError, ImportError: a replica without a classifier must not come up."""
        self._following = following
        self._live: Live | None = None
        self._asked = False
        self._boot = None if following is None else following.boot(artifact)
        self._predictor = Predictor.ready(_loaded(artifact) if self._boot is None else self._boot.artifact)

    async def predict(self, messages: Sequence[Mapping[str, str]]) -> Prediction:
        predictor = self._predictor
        if predictor.encodes:
            prediction: Prediction = await self._together((predictor, messages))
            return prediction
        if sum(len(message.get("content") or "") for message in messages) <= _INLINE_CHARS:
            return predictor.predict(messages)
        return await asyncio.to_thread(predictor.predict, messages)

    async def version(self) -> str:
        return self._predictor.version

    async def reconfigure(self, user_config: Any) -> None:
        """Change to another artifact. Never raises: the last good one stays if the new one does not load."""
        artifact = user_config.get("artifact") if isinstance(user_config, Mapping) else None
        if not isinstance(artifact, str):
            logger.warning("classifier user_config names no artifact; keeping %s", self._predictor.version)
            return
        try:
            if self._following is None:
                self._predictor = await asyncio.to_thread(lambda: Predictor.ready(_loaded(artifact)))
                return
            boot = await asyncio.to_thread(self._following.boot, artifact)
            swap = await asyncio.to_thread(self._prepared, boot.artifact)
        except (ArtifactError, OSError, ImportError, MemoryError, ValueError) as error:
            logger.error("classifier artifact refused, keeping %s: %s", self._predictor.version, error)
            return
        self._boot = boot
        if self._live is None:
            swap()
        else:
            self._live.boots(self._boot)

    async def check_health(self) -> None:
        """Called by Serve every few seconds; raises if a prediction does not come out whole.

        Serve waits for the first before it sends requests: a new replica begins with what is published.
        """
        await self._follow()
        arms = set(self._predictor.arms)
        prediction = await self.predict(_PROBE)
        if set(prediction.p) != arms:
            raise RuntimeError("the classifier does not predict all of its arms")

    async def _follow(self) -> None:
        if self._following is None or self._asked:
            return
        self._asked = True
        refusals = metrics.Counter(
            "acr_classifier_refused_total",
            description="published classifiers that this replica did not take; its log says why",
        )
        self._live = self._following.on_serve(self._boot, self._prepared, lambda: refusals.inc())
        if self._live is not None:
            await self._live.start()

    def _prepared(self, artifact: Artifact) -> Callable[[], None]:
        """Swapped between two requests; one that is being predicted keeps the predictor it began with."""
        predictor = Predictor.ready(artifact)

        def swap() -> None:
            self._predictor = predictor

        return swap

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=BATCH_WAIT_S)
    async def _together(self, asked: list[Asked]) -> list[Prediction]:
        return await asyncio.to_thread(predict_together, asked)


def predict_together(asked: Sequence[Asked]) -> list[Prediction]:
    """In the order asked. While the artifact changes a batch has prompts for two: each keeps its own."""
    found: dict[int, Prediction] = {}
    for predictor in {id(each): each for each, _ in asked}.values():
        mine = [at for at, (each, _) in enumerate(asked) if each is predictor]
        found.update(zip(mine, predictor.predict_all([asked[at][1] for at in mine]), strict=True))
    return [found[at] for at in range(len(asked))]


def _loaded(place: str | None) -> Artifact:
    return load(DEFAULT_ARTIFACT if place is None else place)
