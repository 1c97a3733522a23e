"""Off-policy estimators and their intervals, against sums by hand and coverage on known truths."""

from __future__ import annotations

import math

import numpy as np
import pytest

from router.replay.bootstrap import Interval, interval
from router.replay.estimators import (
    Ratio,
    clipped,
    doubly_robust,
    effective_sample_size,
    ips,
    on_policy,
    snips,
)

pytestmark = pytest.mark.unit

W = np.array([2.0, 0.0, 1.0, 1.0])
R = np.array([1.0, math.nan, 0.0, 1.0])


def test_ips_by_hand() -> None:
    assert ips(W, R).value == pytest.approx((2 + 0 + 1) / 4)


def test_snips_by_hand_and_within_the_rewards() -> None:
    assert snips(W, R).value == pytest.approx(3 / 4)
    heavy = np.array([3.0, 3.0])
    assert ips(heavy, np.ones(2)).value == 3.0
    assert snips(heavy, np.ones(2)).value == 1.0
    assert math.isnan(snips(np.zeros(2), np.ones(2)).value)


def test_snips_moves_with_what_is_added_to_every_reward() -> None:
    known = np.array([1.0, 0.0, 0.0, 1.0])
    assert snips(W, known + 5).value == pytest.approx(snips(W, known).value + 5)


def test_dr_by_hand() -> None:
    taken = np.array([0.5, 0.5, 0.5, 0.5])
    other = np.array([0.4, 0.6, 0.8, 1.0])
    # 0.7 of the model, and 2 x 0.5, -0.5, 0.5 of what it missed
    assert doubly_robust(W, R, taken, other).value == pytest.approx(0.7 + (1.0 - 0.5 + 0.5) / 4)


def test_dr_is_exact_with_a_model_that_is_right_whatever_the_weights() -> None:
    rewards = np.array([0.3, 0.9])
    for weights in (np.array([0.0, 9.0]), np.array([4.0, 0.1])):
        assert doubly_robust(weights, rewards, rewards, np.array([0.2, 0.6])).value == pytest.approx(0.4)


def test_on_policy_is_the_mean() -> None:
    assert on_policy(np.array([1.0, 2.0, 6.0])).value == 3.0


def test_clipping_and_effective_sample_size() -> None:
    assert clipped(np.array([1.0, 30.0]), 5.0).tolist() == [1.0, 5.0]
    assert clipped(np.array([1.0, 30.0]), None).tolist() == [1.0, 30.0]
    assert effective_sample_size(np.ones(50)) == pytest.approx(50)
    assert effective_sample_size(np.array([1.0, 0.0, 0.0])) == pytest.approx(1)
    assert effective_sample_size(np.array([3.0, 1.0])) == pytest.approx(16 / 10)
    assert effective_sample_size(np.zeros(3)) == 0.0


# -- intervals


def covered(draw: object, truth: float, kind: str, tries: int = 200) -> float:
    hits = 0
    for seed in range(tries):
        rng = np.random.default_rng(seed)
        hits += interval(draw(rng, kind), seed=seed, resamples=200).covers(truth)  # type: ignore[operator]
    return hits / tries


def bandit(rng: np.random.Generator, kind: str) -> Ratio:
    """Two arms; the log takes the second with 0.1, the policy always; it is worth 0.7."""
    second = rng.random(500) < 0.1
    rewards = (rng.random(500) < np.where(second, 0.7, 0.4)).astype(float)
    weights = np.where(second, 10.0, 0.0)
    if kind == "ips":
        return ips(weights, rewards)
    if kind == "snips":
        return snips(weights, rewards)
    return doubly_robust(weights, rewards, np.where(second, 0.6, 0.5), np.full(500, 0.6))


@pytest.mark.parametrize("kind", ["ips", "snips", "dr"])
def test_intervals_cover_the_truth_as_often_as_they_say(kind: str) -> None:
    assert 0.85 <= covered(bandit, 0.7, kind) <= 0.97


def test_the_same_seed_gives_the_same_ends() -> None:
    one = bandit(np.random.default_rng(1), "snips")
    assert interval(one, seed=3) == interval(one, seed=3)
    assert interval(one, seed=3) != interval(one, seed=4)


def test_a_constant_has_no_width_but_for_the_error_that_is_known() -> None:
    flat = on_policy(np.full(20, 2.0))
    assert interval(flat) == Interval(2.0, 2.0, 2.0)
    known = interval(flat, least_error=0.5)
    assert known.high - 2.0 == pytest.approx(0.5 * 1.645, abs=1e-3)
    assert known.covers(2.7)
    assert not known.covers(2.9)


def test_a_known_error_widens_what_chance_left_narrow() -> None:
    one = bandit(np.random.default_rng(1), "ips")
    plain, wide = interval(one), interval(one, least_error=1.0)
    assert wide.high - wide.low > 3 * (plain.high - plain.low)


def test_what_is_not_defined_stays_so() -> None:
    nothing = interval(snips(np.zeros(4), np.ones(4)))
    assert math.isnan(nothing.value)
    assert not nothing.covers(0.0)


def test_a_difference_is_paired() -> None:
    rng = np.random.default_rng(0)
    common = rng.normal(10.0, 5.0, 400)
    more = on_policy(common + 1.0 + rng.normal(0.0, 0.1, 400))
    apart = interval(more, on_policy(common))
    assert apart.value == pytest.approx(1.0, abs=0.02)
    assert apart.high - apart.low < 0.05
    alone = interval(more)
    assert alone.high - alone.low > 0.5


def test_bundles_tell_about_as_much_as_single_decisions() -> None:
    values = np.random.default_rng(0).normal(5.0, 1.0, 20_000)
    found = interval(on_policy(values))
    assert found.covers(5.0)
    assert found.high - found.low == pytest.approx(2 * 1.645 / math.sqrt(20_000), rel=0.2)


def test_ends_are_cut_where_no_value_can_be() -> None:
    assert Interval(0.5, -0.2, 1.3).within(0.0, 1.0) == Interval(0.5, 0.0, 1.0)
