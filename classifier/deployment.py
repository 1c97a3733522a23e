"""The classifier as a Ray Serve deployment, for encoders too heavy to live in the ingress."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from ray import serve

from classifier.errors import ArtifactError
from classifier.predictor import Prediction, Predictor

logger = logging.getLogger(__name__)

# Up to here a prediction is a fraction of a millisecond; above, it would hold up the event loop.
_INLINE_CHARS = 4_096


@serve.deployment
class ClassifierDeployment:
    """One predictor. `artifact` is a directory, None for the one that comes with the package.

    A new artifact is handed in through `user_config: {artifact: DIR}` while serving.
    """

    def __init__(self, artifact: str | None = None) -> None:
        """Raises ArtifactError: a replica without a classifier must not come up."""
        self._predictor = Predictor.load(artifact)

    async def predict(self, messages: Sequence[Mapping[str, str]]) -> Prediction:
        if sum(len(message.get("content") or "") for message in messages) <= _INLINE_CHARS:
            return self._predictor.predict(messages)
        return await asyncio.to_thread(self._predictor.predict, messages)

    async def version(self) -> str:
        return self._predictor.version

    async def reconfigure(self, user_config: Any) -> None:
        """Change to another artifact. Never raises: the last good one stays if the new one does not load."""
        artifact = user_config.get("artifact") if isinstance(user_config, Mapping) else None
        if not isinstance(artifact, str):
            logger.warning("classifier user_config names no artifact; keeping %s", self._predictor.version)
            return
        try:
            self._predictor = await asyncio.to_thread(Predictor.load, artifact)
        except (ArtifactError, OSError, MemoryError) as error:
            logger.error("classifier artifact refused, keeping %s: %s", self._predictor.version, error)

    async def check_health(self) -> None:
        """Called by Serve every few seconds; raises if a prediction does not come out whole."""
        prediction = self._predictor.predict([{"role": "user", "content": "1 + 1 = ?"}])
        if set(prediction.p) != set(self._predictor.arms):
            raise RuntimeError("the classifier does not predict all of its arms")
