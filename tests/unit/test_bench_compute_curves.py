"""Coverage, fitted curves and intervals against what is known in closed form."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from benchmarks.compute.bootstrap import RESAMPLES, Interval, interval, mean, means, ratio, resamples
from benchmarks.compute.curves import (
    coverage,
    coverage_curve,
    fit_coverage,
    fit_majority,
    majority_curve,
    spread,
)
from benchmarks.compute.figures.search import equal
from benchmarks.compute.grid import versus

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("right", range(6))
def test_coverage_is_the_share_of_subsets_that_hold_a_right_one(right: int) -> None:
    values = coverage(np.array([right]), np.array([5]), 5)[0]
    marks = [i < right for i in range(5)]
    for k in range(1, 6):
        subsets = [any(subset) for subset in combinations(marks, k)]
        assert values[k - 1] == pytest.approx(sum(subsets) / len(subsets))


def test_coverage_is_unbiased() -> None:
    """Its expectation over binomial counts is 1 - (1 - p)^k, exactly."""
    n, p = 16, 0.3
    right = np.arange(n + 1)
    chances = np.array(
        [float(np.prod(np.arange(n - c + 1, n + 1)) / np.prod(np.arange(1, c + 1))) for c in right]
    )
    chances *= p**right * (1 - p) ** (n - right)
    expected = chances @ coverage(right, np.full(n + 1, n), n)
    assert expected == pytest.approx(1 - (1 - p) ** np.arange(1, n + 1))


def test_the_exponentiated_power_law_is_recovered() -> None:
    k = spread(40)
    a, b = np.array([-1.7, -0.6]), np.array([-0.4, -1.1])
    fit = fit_coverage(k, coverage_curve(k, a, b))
    assert fit.parameters[0] == pytest.approx(a, abs=0.02)
    assert fit.parameters[1] == pytest.approx(b, abs=0.02)
    assert (fit.residual < 1e-3).all()


def test_nothing_ever_right_is_not_fitted() -> None:
    k = spread(16)
    fit = fit_coverage(
        k, np.stack([np.zeros(len(k)), coverage_curve(k, np.array([-1.0]), np.array([-0.5]))[0]])
    )
    assert np.isnan(fit.parameters[0][0])
    assert fit.parameters[0][1] == pytest.approx(-1.0, abs=0.02)


def test_the_saturating_curve_is_recovered_rising_and_falling() -> None:
    k = spread(40)
    truth = np.array([0.8, 0.2]), np.array([0.5, -0.1]), np.array([0.7, 1.5])
    fit = fit_majority(k, majority_curve(k, *truth))
    for found, known in zip(fit.parameters, truth, strict=True):
        assert found == pytest.approx(known, abs=0.02)


def test_a_ceiling_is_an_accuracy() -> None:
    """A straight line in ln k has its least squares far above 1; the fit stays below."""
    k = spread(40)
    fit = fit_majority(k, (0.3 + 0.15 * np.log(k))[None])
    assert fit.parameters[0][0] == pytest.approx(1.0)
    assert fit.residual[0] < 0.05


def test_fits_look_at_sizes_evenly() -> None:
    assert spread(16).tolist() == sorted(set(spread(16).tolist()))
    assert (spread(40)[0], spread(40)[-1]) == (1, 40)


def test_resamples_weigh_all_prompts_and_stay_the_same() -> None:
    assert resamples(7).shape == (RESAMPLES, 7)
    assert resamples(7).sum(axis=1) == pytest.approx(1.0)
    assert means(np.eye(7)).shape == (RESAMPLES, 7)


def test_the_interval_of_a_mean_is_that_of_the_normal() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    told = mean(values)
    half = 1.96 * values.std() / 20
    assert told.value == pytest.approx(values.mean())
    assert (told.low, told.high) == (
        pytest.approx(told.value - half, abs=0.03),
        pytest.approx(told.value + half, abs=0.03),
    )


def test_a_ratio_is_resampled_together() -> None:
    """Twice as much on every prompt is twice as much on every resample."""
    below = np.random.default_rng(2).random(50) + 0.5
    told = ratio(2 * below, below)
    assert (told.value, told.low, told.high) == pytest.approx((2.0, 2.0, 2.0))


def test_what_is_not_finite_is_left_out() -> None:
    told = interval(1.0, np.array([np.nan, 1.0, 1.0, np.inf]))
    assert (told.low, told.high) == (1.0, 1.0)
    assert np.isnan(interval(np.nan, np.array([np.nan])).low)


def test_words_follow_the_interval() -> None:
    assert "a is better than b: +2.0" in versus("a", "b", Interval(0.02, 0.01, 0.03))
    assert "a is worse than b: -2.0" in versus("a", "b", Interval(-0.02, -0.03, -0.01))
    assert "cannot be told apart" in versus("a", "b", Interval(0.02, -0.01, 0.05))
    assert "equally accurate" in versus("a", "b", Interval(0.0, 0.0, 0.0))
    assert Interval(-0.0001, -0.0002, 0.0).text(1, sign=True) == "+0.0 [+0.0, +0.0]"


def test_equal_tokens_are_found_between_sizes() -> None:
    accuracy, tokens = np.array([0.2, 0.4, 0.5]), np.array([100.0, 200.0, 400.0])
    assert equal(accuracy, tokens, 150.0) == pytest.approx(0.3)
    assert equal(accuracy, tokens, 300.0) == pytest.approx(0.45)
    assert equal(accuracy, tokens, 50.0) == 0.2
    assert equal(accuracy, tokens, 900.0) == 0.5
