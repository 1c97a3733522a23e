from __future__ import annotations

import numpy as np
import pytest

from classifier.tokens import fit_tokens

RNG = np.random.default_rng(0)
Z = RNG.normal(size=(800, 5))
FOLDS = [(np.flatnonzero(np.arange(800) % 4 != k), np.flatnonzero(np.arange(800) % 4 == k)) for k in range(4)]


def spread(scale: float = 0.5, slope: float = 0.8) -> np.ndarray:
    return np.exp(4.0 + slope * Z[:, 0] + RNG.normal(0.0, scale, 800))


def predict(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    linear, head = fit_tokens(Z, tokens, FOLDS)
    return head.tokens(linear.logits(Z))


def test_means_add_up_and_follow_the_features() -> None:
    tokens = spread()[:, None]
    mean, _ = predict(tokens)
    assert mean.mean() == pytest.approx(tokens.mean(), rel=0.05)
    assert np.corrcoef(np.log(mean[:, 0]), Z[:, 0])[0, 1] > 0.98


def test_the_quantile_covers_nineteen_of_twenty() -> None:
    tokens = spread()[:, None]
    _, high = predict(tokens)
    assert np.mean(tokens <= high) == pytest.approx(0.95, abs=0.015)


def test_predictions_stay_within_what_was_seen() -> None:
    tokens = spread()[:, None]
    linear, head = fit_tokens(Z, tokens, FOLDS)
    mean, high = head.tokens(linear.logits(np.full((1, 5), 1e6)))
    assert mean[0, 0] <= 1.2 * tokens.max()
    assert np.isfinite(high).all()


@pytest.mark.parametrize("constant", [0.0, 1.0, 290_000.0])
def test_a_count_that_never_varies(constant: float) -> None:
    mean, high = predict(np.full((800, 1), constant))
    np.testing.assert_allclose(mean, constant, rtol=1e-9, atol=1e-5)
    np.testing.assert_allclose(high, constant, rtol=1e-9, atol=1e-5)


def test_few_rows_give_the_mean() -> None:
    tokens = np.full((800, 1), np.nan)
    tokens[:10, 0] = np.arange(10.0, 20.0)
    mean, high = predict(tokens)
    np.testing.assert_allclose(mean, 14.5)
    assert (high >= 18.0).all()


def test_an_arm_without_rows_is_finite_and_does_not_disturb_others() -> None:
    tokens = np.column_stack([spread(), np.full(800, np.nan)])
    mean, high = predict(tokens)
    alone, _ = predict(tokens[:, :1])
    assert np.isfinite(mean).all()
    assert np.isfinite(high).all()
    np.testing.assert_allclose(mean[:, 0], alone[:, 0])
