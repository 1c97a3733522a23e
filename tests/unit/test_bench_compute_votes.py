"""Votes counted in matrices against the library's own, one draw at a time."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.stopping import adaptive_count, counted_as_they_arrive, tally
from backends.strategies.ranking import elect, likeliest, weights
from backends.strategies.self_consistency import VOTE_TEMPERATURE
from backends.task import Sample
from benchmarks.compute.figures.order import by_arrival
from benchmarks.compute.votes import IMPOSSIBLE, NEVER, count_prefixes, stops
from benchmarks.compute.waves import launched_in_waves, tokens_in_waves, wave_ends

pytestmark = pytest.mark.unit

LETTERS = "abcd"
Drawn = list[tuple[str | None, float, int]]  # answer, log-probability, tokens
DRAWS = st.lists(
    st.tuples(st.sampled_from([None, *LETTERS]), st.floats(-3.0, 0.0), st.integers(1, 9)),
    min_size=1,
    max_size=14,
)


def matrices(drawn: Drawn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Answers, scores that tell samples apart, and log-probabilities of one draw."""
    answers = np.array([[-1 if a is None else LETTERS.index(a) for a, _, _ in drawn]])
    scores = np.linspace(0.0, 1.0, len(drawn))[None]
    return answers, scores, np.array([[logprob for _, logprob, _ in drawn]])


def samples(drawn: Drawn) -> list[Sample]:
    return [Sample("", answer, "stop", tokens, logprob) for answer, logprob, tokens in drawn]


@given(DRAWS)
def test_every_prefix_is_voted_on_as_the_library_votes(drawn: Drawn) -> None:
    answers, scores, logprobs = matrices(drawn)
    counted = count_prefixes(answers, scores, logprobs)
    for k in range(1, len(drawn) + 1):
        votes = tally([answer for answer, _, _ in drawn[:k]])
        told = counted.leader_votes[0, k - 1], counted.second_votes[0, k - 1]
        assert told == (votes.leader_votes, votes.second_votes)
        voters = [i for i in range(k) if votes.leader in (None, drawn[i][0])]
        assert counted.score[0, k - 1] == scores[0, likeliest(samples(drawn), voters)]


@given(DRAWS, st.integers(1, 14), st.sampled_from([0.8, 0.95, IMPOSSIBLE]))
def test_it_stops_where_the_library_stops(drawn: Drawn, limit: int, confidence: float) -> None:
    limit = min(limit, len(drawn))
    got = stops(count_prefixes(*matrices(drawn)), limit, confidence)
    assert got.tolist() == [adaptive_count([a for a, _, _ in drawn], limit, confidence)]


@settings(max_examples=60)
@given(DRAWS, st.sampled_from([None, VOTE_TEMPERATURE]))
def test_weighted_votes_elect_whom_the_library_elects(drawn: Drawn, temperature: float | None) -> None:
    answers, scores, logprobs = matrices(drawn)
    known = np.array([weights("logprob", [logprob for _, logprob, _ in drawn])])
    weighed = known if temperature is None else np.exp(known / temperature)
    engine = SimpleNamespace(info=SimpleNamespace(logprobs=True))
    run: Any = SimpleNamespace(params=SimpleNamespace(scorer="logprob"), deadline=None, engine=engine)
    election = asyncio.run(elect(run, samples(drawn), temperature=temperature))
    counted = count_prefixes(answers, scores, logprobs, weighed)
    assert counted.score[0, -1] == scores[0, election.chosen]


def test_without_any_likelihood_the_votes_decide() -> None:
    """All weights are nothing then, and nothing must not elect whoever came first."""
    answers, scores = np.array([[0, 1, 1]]), np.array([[0.0, 1.0, 0.5]])
    none = np.full((1, 3), -np.inf)
    assert count_prefixes(answers, scores, none, np.zeros((1, 3))).score[0].tolist() == [0.0, 0.0, 1.0]


def test_draws_do_not_disturb_one_another() -> None:
    rng = np.random.default_rng(3)
    answers = rng.integers(-1, 4, (50, 12))
    scores, logprobs = rng.random((50, 12)), -rng.random((50, 12))
    together = count_prefixes(answers, scores, logprobs)
    for i in range(50):
        alone = count_prefixes(answers[i : i + 1], scores[i : i + 1], logprobs[i : i + 1])
        assert np.array_equal(alone.score[0], together.score[i])
        assert np.array_equal(alone.second_votes[0], together.second_votes[i])


def test_each_rule_alone() -> None:
    """Sixteen equal votes: Beta at 0.95 needs 4, the lossless rule more than half."""
    counted = count_prefixes(np.zeros((1, 16), int), np.ones((1, 16)), np.zeros((1, 16)))
    assert stops(counted, 16, 0.95) == [4]
    assert stops(counted, 16, 0.95, rule_limit=NEVER) == [4]
    assert stops(counted, 16, IMPOSSIBLE) == [9]
    assert stops(counted, 16, IMPOSSIBLE, rule_limit=NEVER) == [16]


@given(DRAWS)
def test_arrivals_all_at_once_are_the_librarys(drawn: Drawn) -> None:
    answers, tokens = [a for a, _, _ in drawn], [n for _, _, n in drawn]
    order = by_arrival(np.array([tokens], dtype=float), [len(drawn)])[0]
    kept = adaptive_count([answers[i] for i in order], len(drawn), 0.95)
    assert order[:kept].tolist() == counted_as_they_arrive(answers, tokens, len(drawn), 0.95)


def test_arrivals_inside_waves_never_cross_them() -> None:
    tokens = np.array([[9.0, 8.0, 7.0, 1.0, 6.0, 5.0, 5.0, 2.0]])
    assert by_arrival(tokens, wave_ends(8)).tolist() == [[0, 1, 3, 2, 7, 5, 6, 4]]


def test_waves_are_one_one_two_four() -> None:
    assert wave_ends(16) == [1, 2, 4, 8, 16]
    assert wave_ends(40) == [1, 2, 4, 8, 16, 32, 40]
    assert wave_ends(1) == [1]
    assert launched_in_waves(np.array([1, 2, 3, 5, 16]), 16).tolist() == [1, 2, 4, 8, 16]


def test_a_cut_wave_costs_what_it_had_generated() -> None:
    tokens = np.array([[10.0, 20.0, 5.0, 50.0, 7.0, 8.0, 9.0, 100.0]])
    # three counted: the fourth had run as long as the third; five: 7 each for the rest of its wave
    assert tokens_in_waves(tokens, np.array([3])) == [10 + 20 + 5 + 5]
    assert tokens_in_waves(tokens, np.array([5])) == [10 + 20 + 5 + 50 + 4 * 7]
    assert tokens_in_waves(tokens, np.array([8])) == [tokens.sum()]
    assert tokens_in_waves(tokens, np.array([1])) == [10]


@given(st.lists(st.integers(1, 99), min_size=1, max_size=20), st.data())
def test_waves_cost_no_less_than_what_is_counted(lengths: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(lengths)))
    spent = tokens_in_waves(np.array([lengths], dtype=float), np.array([count]))[0]
    assert sum(lengths[:count]) <= spent <= sum(lengths)
