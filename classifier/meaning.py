"""The opinion of a sentence encoder: what a prompt means, where its words and shape do not tell.

Off by default (docs/embedding.md). An artifact that has this opinion names the encoder and the sha256 of its
weights; with any other its numbers would mean nothing, so that one is refused.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from classifier.encoder import Encoder, MiniLmEncoder, minilm_folder
from classifier.errors import ArtifactIncompatible
from classifier.features.text import view
from classifier.forward import Meaning

Conversation = Sequence[Mapping[str, str]]

INSTALL = "pip install 'adaptive-compute-router[semantic]'"


class PinnedEncoder(Encoder, Protocol):
    """An encoder that can tell its weights from others of the same name."""

    def digest(self) -> str:
        """64 hex digits, the sha256 of whatever its vectors depend on."""
        ...


# One thread of a process encodes at a time: the encoder is shared, and takes the cores it may by itself.
_encoding = threading.Lock()


class Sentences:
    """An encoder for the question of a conversation. Any number of threads may share it."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    def vectors(self, conversations: Sequence[Conversation]) -> list[NDArray[np.float32] | None]:
        """One each; None for a question that the encoder cannot see whole: it counts as an average one."""
        texts = [view(messages).question for messages in conversations]
        with _encoding:
            return self._encoder.encode(texts)


def installed_encoder() -> PinnedEncoder:
    """The one that this program can use, one a process: an artifact that comes after another finds it loaded.

    Raises ArtifactIncompatible where it is not installed.
    """
    if minilm_folder() is None:
        raise ArtifactIncompatible(f"the sentence encoder {MiniLmEncoder.name} is not installed; {INSTALL}")
    return _minilm()


@cache
def _minilm() -> MiniLmEncoder:
    return MiniLmEncoder()


def encoder_for(meaning: Meaning, encoder: PinnedEncoder | None = None) -> PinnedEncoder:
    """The encoder of a saved opinion: the one given, or the installed one.

    Raises ArtifactIncompatible where there is none, or where its weights are others.
    """
    if encoder is None:
        if meaning.encoder != MiniLmEncoder.name or minilm_folder() is None:
            raise ArtifactIncompatible(
                f"the classifier asks the sentence encoder {meaning.encoder!r}, which is not installed; "
                f"{INSTALL}, or train it again without --embedding"
            )
        encoder = installed_encoder()
    if encoder.name != meaning.encoder or encoder.digest() != meaning.digest:
        raise ArtifactIncompatible(
            f"the classifier was trained with other weights of {meaning.encoder!r} than those of the encoder "
            f"{encoder.name!r} here; install its version, or train it again"
        )
    return encoder
