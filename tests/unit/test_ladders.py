from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from classifier.ladders import contradicted, ladders_from_names, raise_monotone


@pytest.mark.parametrize(
    ("arms", "ladders"),
    [
        (["consistency/sc16", "direct/cot", "consistency/sc4"], [(2, 0)]),
        (["maj@8", "maj@64", "maj@16"], [(0, 2, 1)]),
        (["a/best_of_4", "a/best_of_8", "b/best_of_4"], [(0, 1)]),
        (["cot/n1", "cot/n8", "direct/n1", "direct/n8"], [(0, 1), (2, 3)]),
        (["k=2", "k=10"], [(0, 1)]),
    ],
)
def test_names_that_tell_samples(arms: list[str], ladders: list[tuple[int, ...]]) -> None:
    assert list(ladders_from_names(arms)) == ladders


@pytest.mark.parametrize(
    "arms",
    [
        ["gpt-3", "gpt-4"],
        ["llama-8", "llama-70"],
        ["6b_finetuning", "175b_finetuning"],
        ["misc4", "misc16"],
        ["sc4"],
        ["a/sc4", "b/sc16"],
        ["sc", "sc16"],
    ],
)
def test_names_that_do_not(arms: list[str]) -> None:
    assert ladders_from_names(arms) == ()


def test_scores_that_clearly_fall_contradict_a_ladder() -> None:
    rng = np.random.default_rng(0)
    better, worse = (rng.random((400, 1)) < p for p in (0.7, 0.4))
    falling = np.hstack([better, worse]).astype(float)
    assert contradicted((0, 1), falling)
    assert not contradicted((1, 0), falling)


def test_noise_does_not_contradict_and_gaps_do_not_count() -> None:
    scores = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [np.nan, 0.0]] * 10)
    assert not contradicted((0, 1), scores)
    assert not contradicted((0, 1), np.full((5, 2), np.nan))


@given(st.lists(st.lists(st.floats(0, 1), min_size=4, max_size=4), min_size=1, max_size=5))
def test_raising_is_isotonic_regression_row_by_row(rows: list[list[float]]) -> None:
    p = np.array(rows)
    raised = raise_monotone(p, [(2, 0, 3)])
    np.testing.assert_array_equal(raised[:, 1], p[:, 1])
    for before, after in zip(p, raised, strict=True):
        expected = IsotonicRegression().fit_transform([0, 1, 2], before[[2, 0, 3]])
        np.testing.assert_allclose(after[[2, 0, 3]], expected, atol=1e-12)


def test_what_rises_already_stays() -> None:
    p = np.array([[0.1, 0.4, 0.9]])
    np.testing.assert_allclose(raise_monotone(p, [(0, 1, 2)]), p, rtol=1e-12)
    np.testing.assert_array_equal(raise_monotone(p, []), p)
