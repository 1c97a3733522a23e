from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from classifier.calibration import Calibrator, sigmoid
from classifier.forward import Head, TokenHead

NONE = Calibrator("none", 1.0, 0.0, np.empty(0), np.empty(0))
CURVE = Calibrator("isotonic", 1.0, 0.0, np.array([-2.0, 0.0, 2.0]), np.array([0.0, 0.5, 1.0]))
HEAD = Head(
    calibrators=(NONE, CURVE, replace(NONE, method="platt", slope=0.5, offset=-1.0)),
    base=np.array([0.2, 0.4, 0.6]),
    trust=np.ones(3),
    floor=np.full(3, 0.01),
    distrust=1.0,
    ladders=(),
)
logits = arrays(np.float64, (4, 3), elements=st.floats(-1e3, 1e3))
shares = arrays(np.float64, (4,), elements=st.floats(0.0, 1.0))


def test_each_arm_has_its_own_calibration() -> None:
    p = HEAD.probabilities(np.array([[1.0, 1.0, 1.0]]), np.zeros(1))
    np.testing.assert_allclose(p, [[sigmoid(np.array(1.0)), 0.75, sigmoid(np.array(-0.5))]])


def test_the_floor_keeps_p_from_claiming_more_than_rows_can_show() -> None:
    p = HEAD.probabilities(np.array([[99.0, 99.0, 999.0], [-99.0, -99.0, -999.0]]), np.zeros(2))
    np.testing.assert_allclose(p, [[0.99] * 3, [0.01] * 3])


def test_without_trust_only_the_base_rate_is_left() -> None:
    head = replace(HEAD, trust=np.zeros(3))
    np.testing.assert_allclose(head.probabilities(np.full((1, 3), 5.0), np.zeros(1)), [[0.2, 0.4, 0.6]])


def test_half_the_trust_is_half_the_way_in_logits() -> None:
    head = replace(HEAD, trust=np.full(3, 0.5))
    base_logit = np.log(0.2 / 0.8)
    p = head.probabilities(np.array([[2.0, 0.0, 0.0]]), np.zeros(1))
    assert p[0, 0] == pytest.approx(sigmoid(np.array((2.0 + base_logit) / 2)))


@pytest.mark.parametrize(("distrust", "moved"), [(0.0, 0.0), (0.5, 0.25), (1.0, 0.5)])
def test_strange_prompts_move_towards_the_base_rate(distrust: float, moved: float) -> None:
    head = replace(HEAD, distrust=distrust)
    plain, strange = (head.probabilities(np.zeros((1, 3)), np.array([ood])) for ood in (0.0, 0.5))
    np.testing.assert_allclose(strange, plain + moved * (HEAD.base - plain))


def test_ladders_hold_after_everything_else() -> None:
    head = replace(HEAD, ladders=((0, 2),))
    p = head.probabilities(np.array([[3.0, 0.0, -3.0]]), np.array([0.3]))
    assert p[0, 0] == pytest.approx(p[0, 2])


@given(logits, shares)
def test_probabilities_are_probabilities(values: np.ndarray, ood: np.ndarray) -> None:
    p = replace(HEAD, ladders=((0, 1, 2),)).probabilities(values, ood)
    assert p.shape == (4, 3)
    assert ((p > 0.0) & (p < 1.0)).all()
    assert (np.diff(p, axis=1) >= -1e-12).all()


@given(logits, shares)
def test_a_higher_logit_never_means_a_lower_p(values: np.ndarray, ood: np.ndarray) -> None:
    assert (HEAD.probabilities(values + 0.5, ood) >= HEAD.probabilities(values, ood) - 1e-12).all()


@given(logits)
def test_tokens_stay_within_what_was_seen(values: np.ndarray) -> None:
    head = TokenHead(
        np.zeros(3), np.log([10.0, 100.0, 1e5]), np.array([1.0, 1.1, 1.0]), np.array([1.0, 1.5, 2.0])
    )
    mean, high = head.tokens(values)
    assert (mean >= 0.999).all()
    assert (mean <= [10.001, 110.001, 1.001e5]).all()
    np.testing.assert_allclose(high, mean * head.multiplier)
