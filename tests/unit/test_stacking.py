from __future__ import annotations

import numpy as np
import pytest

from classifier.calibration import sigmoid
from classifier.features.matrix import feature_matrix
from classifier.search import log_loss
from classifier.stacking import Stack, fit_stack
from classifier.wording import fit_words, inverse_frequencies, words_logits

RNG = np.random.default_rng(0)
HARD = RNG.normal(0.0, 1.0, (800, 1))
APART = np.hstack([side := RNG.normal(0.0, 1.0, (800, 1)), -side])
SCORES = (RNG.random((800, 2)) < sigmoid(HARD + APART)).astype(float)


def test_each_opinion_is_believed_where_it_knows() -> None:
    # the first knows how hard a prompt is, the second what sets the arms apart
    noise = RNG.normal(0.0, 1.0, (800, 2))
    stack = fit_stack(
        HARD + noise - noise.mean(axis=1, keepdims=True), APART + RNG.normal(0.0, 1.0, (800, 1)), SCORES
    )
    assert stack.common[0] > 0.7
    assert stack.common[1] < 0.2
    assert stack.apart[0] < 0.2
    assert stack.apart[1] > 0.7


def test_an_opinion_that_is_noise_is_not_believed() -> None:
    stack = fit_stack(HARD + APART, RNG.normal(0.0, 2.0, (800, 2)), SCORES)
    assert stack.common[1] < 0.1
    assert stack.apart[1] < 0.1


def test_two_opinions_are_no_worse_than_one() -> None:
    first, second = HARD + 0.3 * APART, 0.2 * HARD + APART
    stack = fit_stack(first, second, SCORES)
    blended = stack.blend(first, second) + stack.offset
    assert log_loss(blended, SCORES) < min(log_loss(first, SCORES), log_loss(second, SCORES))


def test_gaps_count_for_nothing() -> None:
    scores = SCORES.copy()
    scores[::3, 0] = np.nan
    assert np.isfinite(fit_stack(HARD + APART, HARD - APART, scores).offset).all()


def test_a_blend_of_linear_maps_is_the_blend_of_their_logits() -> None:
    x = RNG.normal(size=(5, 7))
    one, two = RNG.normal(size=(7, 3)), RNG.normal(size=(7, 3))
    stack = Stack(np.array([0.8, 0.3]), np.array([0.1, 1.2]), np.zeros(3))
    np.testing.assert_allclose(x @ stack.blend(one, two), stack.blend(x @ one, x @ two))


# -- the opinion of the words


def talks(words: list[str]) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": f"please tell me about {word} now"}] for word in words]


def test_words_set_arms_apart() -> None:
    words = [("poetry", "algebra")[i % 2] for i in range(200)]
    x = feature_matrix(talks(words))
    first = np.array([float(word == "poetry") for word in words])
    linear = fit_words(x, np.column_stack([first, 1.0 - first]), inverse_frequencies(x), 1.0)
    told = words_logits(feature_matrix(talks(["poetry", "algebra", "cooking"])), linear)
    assert told[0, 0] - told[0, 1] > 2.0
    assert told[1, 0] - told[1, 1] < -2.0
    assert abs(told[2, 0] - told[2, 1]) < 1.0


@pytest.mark.parametrize("constant", [0.0, 1.0, np.nan])
def test_an_arm_of_one_class_stays_within_reach(constant: float) -> None:
    x = feature_matrix(talks(["one", "two"] * 30))
    scores = np.column_stack([np.tile([0.0, 1.0], 30), np.full(60, constant)])
    told = words_logits(x, fit_words(x, scores, inverse_frequencies(x), 0.3))
    assert np.isfinite(told).all()
    assert np.abs(told[:, 1]).max() < 8.0
