from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifier.calibration import (
    MAX_KNOTS,
    METHODS,
    brier,
    choose_calibrator,
    ece,
    ece_floor,
    ece_noise,
    fit_calibrator,
    logit,
    sigmoid,
)


def drawn(
    count: int, slope: float = 1.0, offset: float = 0.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Logits that should be multiplied by `slope` and moved by `offset`, and outcomes."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(0.0, 1.5, count)
    return (truth - offset) / slope, (rng.random(count) < sigmoid(truth)).astype(float)


def fold_numbers(count: int) -> np.ndarray:
    return np.arange(count) % 4


def test_sigmoid_neither_overflows_nor_drifts() -> None:
    assert sigmoid(np.array([-1e6, 0.0, 1e6])).tolist() == [0.0, 0.5, 1.0]
    p = np.array([1e-6, 0.3, 0.999])
    np.testing.assert_allclose(sigmoid(logit(p)), p, rtol=1e-9)


def test_brier_is_the_mean_squared_error() -> None:
    assert brier(np.array([0.0, 0.5, 1.0]), np.array([0.0, 1.0, 0.5])) == pytest.approx(0.5 / 3)
    assert np.isnan(brier(np.empty(0), np.empty(0)))


def test_ece_by_hand() -> None:
    # two bins of two: gaps |0.15 - 0.5| and |0.85 - 1.0|, half the mass each
    p, y = np.array([0.8, 0.1, 0.9, 0.2]), np.array([1.0, 0.0, 1.0, 1.0])
    assert ece(p, y, bins=2) == pytest.approx(0.5 * 0.35 + 0.5 * 0.15)
    assert np.isnan(ece(np.empty(0), np.empty(0)))


def test_ece_of_one_constant_is_its_distance_from_the_mean() -> None:
    y = np.array([0.0] * 30 + [1.0] * 70)
    assert ece(np.full(100, 0.4), y) == pytest.approx(0.3)


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.4, 0.4001, 0.9]), st.booleans()), min_size=1), st.randoms())
def test_ece_does_not_depend_on_the_order_of_rows(rows: list[tuple[float, bool]], random: object) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]

    def of(pairs: list[tuple[float, bool]]) -> float:
        return ece(np.array([p for p, _ in pairs]), np.array([float(y) for _, y in pairs]))

    assert of(rows) == pytest.approx(of(shuffled))
    assert 0.0 <= of(rows) <= 1.0


def test_a_perfect_predictor_reaches_the_floor_and_a_bold_one_does_not() -> None:
    logits, y = drawn(3_000)
    p = sigmoid(logits)
    floor = ece_floor(p)
    assert 0.005 < floor < 0.03
    assert ece(p, y) == pytest.approx(floor, abs=0.012)
    assert ece(sigmoid(3.0 * logits), y) > 4 * floor
    assert np.isnan(ece_floor(np.empty(0)))


def test_the_floor_falls_as_rows_grow() -> None:
    few, many = (sigmoid(drawn(n)[0]) for n in (150, 6_000))
    assert ece_floor(few) > 3 * ece_floor(many)


def test_temperature_finds_the_slope() -> None:
    logits, y = drawn(4_000, slope=0.4)
    fitted = fit_calibrator(logits, y, "temperature")
    assert fitted.slope == pytest.approx(0.4, abs=0.05)
    assert fitted.offset == 0.0


def test_platt_finds_slope_and_offset() -> None:
    logits, y = drawn(4_000, slope=0.5, offset=-1.0)
    fitted = fit_calibrator(logits, y, "platt")
    assert fitted.slope == pytest.approx(0.5, abs=0.06)
    assert fitted.offset == pytest.approx(-1.0, abs=0.12)
    assert ece(fitted.apply(logits), y) < 0.03


def test_platt_never_turns_a_useless_score_around() -> None:
    logits, y = drawn(2_000)
    fitted = fit_calibrator(-logits, y, "platt")
    assert fitted.slope == 0.0
    np.testing.assert_allclose(fitted.apply(logits), y.mean(), atol=0.01)


def test_few_rows_hardly_move_platt() -> None:
    fitted = fit_calibrator(np.array([2.0, -2.0]), np.array([0.0, 1.0]), "platt")
    assert 0.0 <= fitted.slope <= 1.0
    assert abs(fitted.offset) < 0.5


def test_soft_scores_count_as_shares() -> None:
    logits, _ = drawn(4_000)
    fitted = fit_calibrator(logits, sigmoid(0.5 * logits), "temperature")
    assert fitted.slope == pytest.approx(0.5, abs=0.01)


def test_isotonic_is_monotone_bounded_and_thin() -> None:
    logits, y = drawn(5_000, slope=0.5)
    fitted = fit_calibrator(logits, y, "isotonic")
    assert 2 <= fitted.knots_x.size <= MAX_KNOTS
    p = fitted.apply(np.linspace(-50.0, 50.0, 1_001))
    assert (np.diff(p) >= 0.0).all()
    assert 0.0 <= p[0] <= p[-1] <= 1.0


def test_what_is_calibrated_is_left_alone() -> None:
    logits, y = drawn(2_000)
    assert choose_calibrator(logits, y, fold_numbers(2_000)).method == "none"


@pytest.mark.parametrize("slope", [0.3, 3.0])
def test_what_is_not_gets_a_calibration_that_helps(slope: float) -> None:
    logits, y = drawn(2_000, slope=slope)
    chosen = choose_calibrator(logits, y, fold_numbers(2_000))
    fresh_logits, fresh_y = drawn(4_000, slope=slope, seed=1)
    assert chosen.method != "none"
    assert brier(chosen.apply(fresh_logits), fresh_y) < brier(sigmoid(fresh_logits), fresh_y) - 0.005


def test_a_bend_that_no_line_follows_goes_to_isotonic() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0.0, 2.0, 4_000)
    y = (rng.random(4_000) < np.where(np.abs(logits) < 1.5, 0.5, np.where(logits > 0, 0.95, 0.05))).astype(
        float
    )
    assert choose_calibrator(logits, y, fold_numbers(4_000)).method == "isotonic"


@pytest.mark.parametrize("count", [0, 1, 5])
def test_methods_stand_aside_without_rows(count: int) -> None:
    logits, y = drawn(count, slope=0.1)
    assert choose_calibrator(logits, y, fold_numbers(count)).method == "none"


@pytest.mark.parametrize("method", METHODS)
def test_a_method_can_be_asked_for(method: str) -> None:
    logits, y = drawn(400, slope=0.5)
    assert choose_calibrator(logits, y, fold_numbers(400), method).method == method  # type: ignore[arg-type]


def test_noise_is_a_mean_and_what_one_in_20_exceeds() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(400)
    mean, high = ece_noise(p)
    assert mean == ece_floor(p)
    drawn = np.array([ece(p, (rng.random(400) < p).astype(float)) for _ in range(400)])
    assert drawn.mean() == pytest.approx(mean, rel=0.1)
    assert 0.01 < np.mean(drawn > high) < 0.12
    assert np.isnan(ece_noise(np.empty(0))).all()
