"""Conversations as a sentence encoder sees them, beside their features: for training, not for serving."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from classifier.features import COUNT, WIDTH
from classifier.forward import Meaning
from classifier.meaning import Conversation, PinnedEncoder, Sentences

Matrix = NDArray[np.float64]

# Texts that the encoder is given at a time; more do not make it faster on a few cores.
BATCH = 32


@dataclass(frozen=True, slots=True)
class Encoded:
    """Conversations as an encoder sees them: `vectors` (n, d), a row of zeros where it cannot."""

    encoder: str
    digest: str
    vectors: Matrix

    def beside(self, x: sparse.csr_matrix) -> sparse.csr_matrix:
        """(n, COUNT + WIDTH) raw features -> (n, COUNT + WIDTH + d), as `ArmClassifier` takes both."""
        return sparse.csr_matrix(sparse.hstack([x, sparse.csr_matrix(self.vectors)]))

    def named(self, meaning: Meaning | None) -> Meaning | None:
        """The fitted opinion with the encoder that it is for."""
        return None if meaning is None else replace(meaning, encoder=self.encoder, digest=self.digest)


def encode(
    conversations: Sequence[Conversation],
    encoder: PinnedEncoder,
    done: Callable[[int], None] = lambda _: None,
) -> Encoded:
    """Every conversation's vector; `done` hears how many more there are after each batch."""
    sentences, rows = Sentences(encoder), []
    for start in range(0, len(conversations), BATCH):
        part = sentences.vectors(conversations[start : start + BATCH])
        rows += part
        done(len(part))
    width = next((row.size for row in rows if row is not None), 1)
    vectors = np.array([np.zeros(width) if row is None else row for row in rows], dtype=np.float64)
    return Encoded(encoder.name, encoder.digest(), vectors.reshape(len(rows), width))


def apart(x: sparse.csr_matrix) -> tuple[sparse.csr_matrix, Matrix | None]:
    """The raw features (n, COUNT + WIDTH), and the vectors (n, d) beside them, if there are any."""
    if x.shape[1] <= COUNT + WIDTH:
        return x, None
    return sparse.csr_matrix(x[:, : COUNT + WIDTH]), x[:, COUNT + WIDTH :].toarray()
