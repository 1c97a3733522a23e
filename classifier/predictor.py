"""p(success) and cost of every arm for one conversation: a forward pass in numpy on saved weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from classifier.artifact import Artifact, load
from classifier.confidence import Confidence, SampleFacts
from classifier.features import extract
from classifier.features.expand import expand
from classifier.features.structural import INDEX
from classifier.forward import standardise
from classifier.meaning import PinnedEncoder, Sentences, encoder_for

DEFAULT_ARTIFACT = Path(__file__).parent / "artifacts" / "smollm2-135m"
_NOTHING_ASKED = INDEX["nothing_asked"]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What is believed before anything is spent. Mappings go from arm to value.

    `p` in (0, 1): calibrated p(success). `tokens`: expected completion tokens; `tokens_high`: their 95 %
    quantile. `difficulty` is 1 - p of the cheapest arm; `ood` in [0, 1] says how unlike the training prompts
    this one is; `version` names the classifier. `confidences` judge a sample once it is there, for arms that
    draw one; they travel with the prediction, so that judging it asks nobody. For the decision log:
    `features`, 16 hex digits of the sha256 of the feature vector, and the raw `structural` features.
    """

    p: Mapping[str, float]
    tokens: Mapping[str, float]
    tokens_high: Mapping[str, float]
    difficulty: float
    ood: float
    version: str
    confidences: Mapping[str, Confidence] = field(default_factory=dict)
    features: str = ""
    structural: tuple[float, ...] = ()

    def confidence(self, arm: str, sample: SampleFacts) -> float | None:
        """P(right) of the one sample that `arm` drew, None where the classifier does not judge it."""
        model = self.confidences.get(arm)
        return None if model is None or arm not in self.p else model.of(self.p[arm], sample)


class Predictor:
    """A loaded classifier. It never changes, so any number of threads may share it."""

    def __init__(self, artifact: Artifact, encoder: PinnedEncoder | None = None) -> None:
        """`encoder` is for artifacts that ask for one, the installed one by default; loaded when first used.

        Raises ArtifactIncompatible where it is not installed, or not the one of the training.
        """
        self._arms = artifact.arms
        self._weights = artifact.weights
        self._version = artifact.version
        named = artifact.weights.confidences.items()
        self._confidences = {artifact.arms[arm]: model for arm, model in named}
        meaning = artifact.weights.meaning
        self._sentences = None if meaning is None else Sentences(encoder_for(meaning, encoder))
        self._cheapest = int(np.argmin(artifact.weights.typical_tokens))

    @classmethod
    def load(cls, path: str | Path | None = None) -> Predictor:
        """Load a directory, by default the one that comes with the package.

        Raises ArtifactError, of which ArtifactIncompatible where it asks an encoder that is not installed.
        """
        return cls(load(DEFAULT_ARTIFACT if path is None else path))

    @classmethod
    def ready(cls, artifact: Artifact) -> Predictor:
        """Whose encoder, if it asks one, is loaded: that would hold up the first request otherwise.

        Raises ArtifactIncompatible where it is not installed, OSError, ImportError where it cannot be read.
        """
        predictor = cls(artifact)
        predictor.predict([{"role": "user", "content": "1 + 1 = ?"}])
        return predictor

    @property
    def arms(self) -> tuple[str, ...]:
        return self._arms

    @property
    def version(self) -> str:
        return self._version

    @property
    def encodes(self) -> bool:
        """Whether it asks a sentence encoder: tens of milliseconds a prompt, fewer in batches."""
        return self._sentences is not None

    def predict(self, messages: Sequence[Mapping[str, str]]) -> Prediction:
        """Predict for a conversation of {role, content}; odd or huge content is read as far as it goes."""
        return self.predict_all([messages])[0] if self._sentences else self._predict(messages, None)

    def predict_all(self, conversations: Sequence[Sequence[Mapping[str, str]]]) -> list[Prediction]:
        """The same for each, in one pass of the encoder where there is one."""
        if self._sentences is None:
            return [self._predict(messages, None) for messages in conversations]
        vectors = self._sentences.vectors(conversations)
        return [self._predict(*each) for each in zip(conversations, vectors, strict=True)]

    def _predict(
        self, messages: Sequence[Mapping[str, str]], vector: NDArray[np.float32] | None
    ) -> Prediction:
        weights, arms = self._weights, len(self._arms)
        features = extract(messages)
        structural = features.structural[None]
        columns = standardise(expand(structural), weights.mean, weights.inverse)[0]
        scores = columns @ weights.structural + weights.intercept
        scores += features.values @ weights.lexical[features.buckets]
        if weights.meaning is not None and vector is not None:
            scores[:arms] += weights.meaning.logits(vector[None].astype(np.float64))[0]
        share = weights.novelty.rare_share(features.buckets, features.values)
        ood = weights.novelty.score(structural, np.array([share]))
        p = weights.head.probabilities(scores[None, :arms], ood)[0]
        if features.structural[_NOTHING_ASKED] and not weights.inverse[_NOTHING_ASKED]:
            # no such turn was in the table; whichever arm answers "thanks!", it will do
            p = np.full(arms, 1.0 - float(weights.head.floor.max()))
        tokens, high = weights.token_head.tokens(scores[arms:])
        return Prediction(
            p=self._named(p),
            tokens=self._named(tokens),
            tokens_high=self._named(high),
            difficulty=1.0 - float(p[self._cheapest]),
            ood=float(ood[0]),
            version=self._version,
            confidences=self._confidences,
            features=features.digest(),
            structural=tuple(features.structural.tolist()),
        )

    def _named(self, values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> dict[str, float]:
        return dict(zip(self._arms, values.tolist(), strict=True))
