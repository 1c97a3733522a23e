from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from classifier.design import Design, moments
from classifier.features import COUNT, WIDTH
from classifier.features.expand import EXPANDED, EXPANDED_NAMES, expand
from classifier.features.matrix import feature_matrix
from classifier.forward import standardise
from tests.outcomes import sums


def matrix(count: int = 90, seed: int = 0) -> sparse.csr_matrix:
    return feature_matrix([item.messages for item in sums(count, seed=seed).items])


def test_columns_are_standardised_and_constants_vanish() -> None:
    x = matrix()
    design = Design.fit(x, rank=8, random_state=0)
    z = design.transform(x, 1.0)
    assert z.shape == (90, EXPANDED + 8)
    varying = design.inverse > 0
    assert 5 < varying.sum() < EXPANDED
    np.testing.assert_allclose(z[:, :EXPANDED][:, ~varying], 0.0)
    column = EXPANDED_NAMES.index("max_digits>1")
    assert z[:, column].mean() == pytest.approx(0.0, abs=1e-9)
    assert z[:, column].std() == pytest.approx(1.0)


def test_words_are_centred_and_the_widest_direction_has_deviation_one() -> None:
    x = matrix()
    words = Design.fit(x, rank=8, random_state=0).transform(x, 1.0)[:, EXPANDED:]
    np.testing.assert_allclose(words.mean(axis=0), 0.0, atol=1e-9)
    assert words.std(axis=0).max() == pytest.approx(1.0)


def test_the_lexical_scale_only_touches_words() -> None:
    x = matrix()
    design = Design.fit(x, rank=8, random_state=0)
    one, three = design.transform(x, 1.0), design.transform(x, 3.0)
    np.testing.assert_array_equal(one[:, :EXPANDED], three[:, :EXPANDED])
    np.testing.assert_allclose(3.0 * one[:, EXPANDED:], three[:, EXPANDED:])


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_unfolded_weights_do_the_same_on_raw_features(scale: float) -> None:
    x, fresh = matrix(), matrix(40, seed=1)
    design = Design.fit(x, rank=8, random_state=0)
    rng = np.random.default_rng(0)
    weights, intercept = rng.normal(size=(EXPANDED + 8, 2)), rng.normal(size=2)
    structural, lexical, shifted = design.unfold(weights, intercept, scale)
    assert lexical.shape == (WIDTH, 2)
    columns = standardise(expand(fresh[:, :COUNT].toarray()), design.mean, design.inverse)
    raw = columns @ structural + fresh[:, COUNT:] @ lexical + shifted
    np.testing.assert_allclose(raw, design.transform(fresh, scale) @ weights + intercept, atol=1e-9)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_prompts_have_few_directions(count: int) -> None:
    x = matrix(count)
    design = Design.fit(x, rank=64, random_state=0)
    assert design.basis.shape[1] <= max(1, count - 1)
    assert np.isfinite(design.transform(x, 1.0)).all()


def test_prompts_without_words_are_no_obstacle() -> None:
    x = feature_matrix([[{"role": "user", "content": ""}]] * 5)
    assert np.isfinite(Design.fit(x, rank=4, random_state=0).transform(x, 1.0)).all()


def test_the_same_rows_give_the_same_directions() -> None:
    one, two = (Design.fit(matrix(), rank=8, random_state=5).basis for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_moments_by_hand() -> None:
    mean, inverse = moments(np.array([[1.0, 7.0], [3.0, 7.0]]))
    assert mean.tolist() == [2.0, 7.0]
    assert inverse.tolist() == [1.0, 0.0]
