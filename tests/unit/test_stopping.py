"""The stopping rules against their published numbers, and against what they promise."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import betainc

from backends.stopping import (
    adaptive_count,
    counted_as_they_arrive,
    leader_confidence,
    stop_reason,
    tally,
)


def test_the_integer_form_is_the_beta_integral() -> None:
    for first in range(12):
        for second in range(first + 1):
            expected = 1.0 - betainc(first + 1, second + 1, 0.5)
            assert leader_confidence(first, second) == pytest.approx(expected, abs=1e-12)


def test_smallest_lead_that_stops_at_95_percent() -> None:
    needed = [next(v for v in range(40) if leader_confidence(v, s) >= 0.95) for s in range(9)]
    assert needed == [4, 6, 8, 9, 11, 12, 14, 15, 17]


def test_no_answer_casts_no_vote() -> None:
    votes = tally(["a", None, "b", "a", None])
    assert (votes.leader, votes.leader_votes, votes.second_votes, votes.total) == ("a", 2, 1, 5)
    assert tally([None, None]).leader is None
    assert tally([]).confidence is None


def test_ties_go_to_the_first_seen() -> None:
    assert tally(["b", "a", "a", "b"]).leader == "b"


def test_confident_and_settled() -> None:
    assert stop_reason(tally(["a"] * 4), 40, 0.95) == "confident"
    assert stop_reason(tally(["a"] * 3), 40, 0.95) is None
    assert stop_reason(tally(["a"] * 3), 4, 0.999) == "settled"
    assert stop_reason(tally(["a", "b"]), 2, 0.95) is None
    assert stop_reason(tally([None] * 5), 5, 0.95) is None


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=12), st.data())
def test_a_settled_vote_cannot_change(answers: list[str], data: st.DataObject) -> None:
    """The lossless rule: whatever comes after it, the leader stays."""
    limit = len(answers) + data.draw(st.integers(0, 6))
    votes = tally(answers)
    if stop_reason(votes, limit, 1.1) != "settled":
        return
    rest = data.draw(
        st.lists(st.sampled_from("abc"), min_size=limit - len(answers), max_size=limit - len(answers))
    )
    assert tally([*answers, *rest]).leader == votes.leader


def test_launch_order_is_unbiased_where_arrival_order_is_not() -> None:
    """Wrong answers that come sooner must not win because they come sooner."""
    rng = random.Random(7)
    by_launch = by_arrival = 0
    runs = 400
    for _ in range(runs):
        drawn = [
            ("right", rng.uniform(2, 3)) if rng.random() < 0.6 else ("wrong", rng.uniform(0, 1))
            for _ in range(16)
        ]
        launched = [answer for answer, _ in drawn]
        arrived = [answer for answer, _ in sorted(drawn, key=lambda pair: pair[1])]
        by_launch += tally(launched[: adaptive_count(launched, 16, 0.95)]).leader == "right"
        by_arrival += tally(arrived[: adaptive_count(arrived, 16, 0.95)]).leader == "right"
    assert by_launch / runs > 0.7
    assert by_arrival / runs < 0.3


def test_adaptive_count_replays_the_sequential_rule() -> None:
    assert adaptive_count(["a"] * 16, 16, 0.95) == 4
    assert adaptive_count(["a", "b"] * 8, 16, 0.95) == 16
    assert adaptive_count(["a"] * 3, 16, 0.95) == 3
    assert adaptive_count(["a"] * 16, 2, 0.95) == 2


def test_counting_as_they_arrive_counts_the_short_ones_first() -> None:
    answers = ["right", "wrong", "right", "wrong", "wrong", "right", "wrong"]
    lengths = [90.0, 10.0, 80.0, 12.0, 11.0, 85.0, 13.0]
    assert counted_as_they_arrive(answers, lengths, 7, 0.95) == [1, 4, 3, 6]
    assert tally([answers[i] for i in (1, 4, 3, 6)]).leader == "wrong"
    assert adaptive_count(answers, 7, 0.95) == 7


def test_only_the_samples_that_are_launched_arrive() -> None:
    assert counted_as_they_arrive(["a", "b", "c"], [3.0, 2.0, 1.0], 2, 0.95) == [1, 0]
    assert counted_as_they_arrive([], [], 4, 0.95) == []


@given(st.lists(st.sampled_from(["a", "b", None]), max_size=20))
def test_without_a_race_arrival_is_launch_order(answers: list[str | None]) -> None:
    count = adaptive_count(answers, 16, 0.95)
    assert counted_as_they_arrive(answers, [1.0] * len(answers), 16, 0.95) == list(range(count))
