from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from classifier.calibration import sigmoid
from classifier.logistic import Rotated, fit_arms

RNG = np.random.default_rng(0)
Z = RNG.normal(size=(300, 6)) @ RNG.normal(size=(6, 6))
TRUE = RNG.normal(size=(6, 2))
SCORES = (RNG.random((300, 2)) < sigmoid(0.5 * Z @ TRUE + 0.5)).astype(float)


def sklearn_c(c: float, pull: float) -> float:
    """C of one arm's plain regression: |w0|^2 + pull |v|^2, w0 + v = w, is least at w^2 pull / (1 + pull)."""
    return c * (1.0 + 1.0 / pull)


@pytest.mark.parametrize("c", [0.001, 0.05, 5.0])
@pytest.mark.parametrize("pull", [0.1, 1.0, 100.0])
def test_one_arm_is_scikit_learns_regression(c: float, pull: float) -> None:
    fitted = fit_arms(Rotated.of(Z), SCORES[:, :1], c, pull, tolerance=1e-14)
    reference = LogisticRegression(C=sklearn_c(c, pull), tol=1e-8, max_iter=5_000).fit(Z, SCORES[:, 0])
    np.testing.assert_allclose(fitted.weights[:, 0], reference.coef_[0], atol=2e-4)
    np.testing.assert_allclose(fitted.intercept, reference.intercept_, atol=2e-4)


def test_soft_scores_weight_both_classes() -> None:
    soft = np.round(sigmoid(Z @ TRUE[:, 0]), 1)
    fitted = fit_arms(Rotated.of(Z), soft[:, None], 0.1, 1.0, tolerance=1e-14)
    both, labels = np.vstack([Z, Z]), np.repeat([1, 0], len(Z))
    reference = LogisticRegression(C=sklearn_c(0.1, 1.0), tol=1e-8, max_iter=5_000)
    reference.fit(both, labels, sample_weight=np.concatenate([soft, 1.0 - soft]))
    np.testing.assert_allclose(fitted.weights[:, 0], reference.coef_[0], atol=2e-4)


def test_missing_rows_do_not_count() -> None:
    gaps = SCORES[:, :1].copy()
    gaps[200:] = np.nan
    some = fit_arms(Rotated.of(Z), gaps, 0.1, 1.0, tolerance=1e-14)
    only = fit_arms(Rotated.of(Z[:200]), SCORES[:200, :1], 0.1, 1.0, tolerance=1e-14)
    np.testing.assert_allclose(some.weights, only.weights, atol=1e-4)
    np.testing.assert_allclose(some.intercept, only.intercept, atol=1e-4)


def test_a_strong_pull_makes_arms_alike_and_a_weak_one_lets_them_be() -> None:
    together = fit_arms(Rotated.of(Z), SCORES, 1.0, 1e6).weights
    apart = fit_arms(Rotated.of(Z), SCORES, 1.0, 1e-3).weights
    assert np.abs(together[:, 0] - together[:, 1]).max() < 0.01
    assert np.abs(apart[:, 0] - apart[:, 1]).max() > 0.5


def test_an_arm_with_few_rows_leans_on_the_others() -> None:
    same = (RNG.random((300, 2)) < sigmoid(Z @ TRUE[:, :1])).astype(float)
    same[12:, 1] = np.nan
    held = sigmoid(Z[12:] @ TRUE[:, :1])[:, 0]
    alone = sigmoid(fit_arms(Rotated.of(Z), same[:, 1:], 0.1, 10.0).logits(Z[12:]))[:, 0]
    leaning = sigmoid(fit_arms(Rotated.of(Z), same, 0.1, 10.0).logits(Z[12:]))[:, 1]
    assert np.mean((leaning - held) ** 2) < 0.5 * np.mean((alone - held) ** 2)


@pytest.mark.parametrize("constant", [0.0, 1.0, np.nan])
def test_an_arm_without_two_classes_stays_finite(constant: float) -> None:
    scores = SCORES.copy()
    scores[:, 1] = constant
    fitted = fit_arms(Rotated.of(Z), scores, 1.0, 1.0)
    assert np.isfinite(fitted.weights).all()
    assert np.abs(fitted.intercept).max() < 15.0


def test_directions_without_variation_are_left_out() -> None:
    wide = np.hstack([Z, Z[:, :2], np.zeros((len(Z), 3))])
    rotated = Rotated.of(wide)
    assert rotated.z.shape == (300, 6)
    fitted = fit_arms(rotated, SCORES, 0.1, 1.0)
    np.testing.assert_allclose(fitted.weights[8:], 0.0, atol=1e-9)
    np.testing.assert_allclose(fitted.weights[:2], fitted.weights[6:8], atol=1e-6)


def test_a_design_of_zeros_gives_base_rates() -> None:
    fitted = fit_arms(Rotated.of(np.zeros((300, 4))), SCORES, 1.0, 1.0)
    np.testing.assert_allclose(sigmoid(fitted.intercept), SCORES.mean(axis=0), atol=1e-3)
