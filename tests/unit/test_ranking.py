"""Scores as weights, and which sample they choose."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import BudgetTooSmall, EngineUnavailable
from backends.strategies.base import Run
from backends.strategies.pool import standing, votes
from backends.strategies.ranking import disagree, elect, eligible, likeliest, most_central, weights
from backends.task import Sample
from backends.verifiers.scorers import SCORERS
from tests.tasks import carried, run_on, says, task


def test_scores_by_their_scale() -> None:
    assert weights("logprob", [-0.5, None, 0.0]) == [pytest.approx(exp(-0.5)), 0.0, 1.0]
    assert weights("p_true", [0.2, 1.0, None]) == [0.2, 1.0, 0.0]
    assert weights("reward", [-3.0, 7.5, None, 2.0]) == [
        pytest.approx(1 / 3),
        1.0,
        0.0,
        pytest.approx(2 / 3),
    ]
    assert weights("reward", [4.0, 4.0]) == [1.0, 1.0]
    assert weights("reward", []) == []


@given(st.lists(st.none() | st.floats(-1e6, 1e6), max_size=12), st.sampled_from(["logprob", "reward"]))
def test_weights_keep_the_order_of_scores(scores: list[float | None], scorer: str) -> None:
    weighed = weights(scorer, scores)
    assert len(weighed) == len(scores)
    assert all(0.0 <= weight <= 1.0 for weight in weighed)
    known = [(s, w) for s, w in zip(scores, weighed, strict=True) if s is not None]
    assert all(w1 <= w2 for s1, w1 in known for s2, w2 in known if s1 <= s2)


def test_who_may_be_chosen() -> None:
    passed, failed, unknown = carried("1", verified=True), carried("2", verified=False), carried("3")
    assert eligible([failed, unknown, passed]) == [2]
    assert eligible([failed, unknown]) == [1]
    assert eligible([failed, failed]) == [0, 1]


def test_what_is_a_disagreement() -> None:
    assert not disagree([])
    assert not disagree([carried("7"), carried(None), carried("7", text="other words")])
    assert disagree([carried("7"), carried("8")])
    assert disagree([carried(None, text="a"), carried(None, text="b")])
    assert not disagree([carried(None), carried(None)])


def test_the_likeliest_and_the_most_central() -> None:
    some = [carried(None, mean_logprob=p) for p in (None, -2.0, -1.0, -1.0)]
    assert likeliest(some, [0, 1, 2, 3]) == 2
    assert likeliest(some[:1], [0]) == 0
    texts = [carried(None, text=t, mean_logprob=p) for t, p in (("x y", 0.0), ("a b", -3.0), ("a b c", -4.0))]
    assert most_central(texts, [0, 1, 2]) == 1
    assert most_central(texts, [1, 0]) == 0  # two texts: the likelier


def test_standing_needs_two_votes() -> None:
    assert standing([carried("7")], 0) is None
    assert standing([carried("7"), carried(None)], 0) is None
    assert standing([carried("7"), carried("8", verified=False)], 0) is None
    assert standing([carried(None), carried(None)], 0) is None
    both = [carried("7"), carried("7"), carried("8")]
    assert standing(both, 0) == votes(both).confidence
    behind = standing(both, 2)
    assert behind is not None
    assert behind < 0.5


async def choose(
    monkeypatch: pytest.MonkeyPatch, samples: Sequence[Sample], scores: Sequence[float | None] | Exception
) -> tuple[int, str | None]:
    async def told(run: Run, replies: Sequence[Sample]) -> list[float | None]:
        if isinstance(scores, Exception):
            raise scores
        return [scores[samples.index(reply)] for reply in replies]

    monkeypatch.setitem(SCORERS, "told", told)  # type: ignore[index]
    election = await elect(await run_on(says("x"), task(scorer="told")), samples)
    return election.chosen, election.short


async def test_scores_are_summed_over_equal_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [carried("7", text="a"), carried("8", text="b"), carried("7", text="c")]
    assert await choose(monkeypatch, samples, [0.3, 0.5, 0.4]) == (2, None)  # 0.7 against 0.5
    assert await choose(monkeypatch, samples, [0.3, 0.9, 0.4]) == (1, None)


async def test_a_sample_without_a_score_is_no_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [carried("7", text="a"), carried("7", text="b"), carried("8", text="c")]
    assert await choose(monkeypatch, samples, [None, None, 0.1]) == (2, None)


@pytest.mark.parametrize("score", [None, 0.0])
async def test_where_no_score_tells_them_apart_each_has_one_vote(
    monkeypatch: pytest.MonkeyPatch, score: float | None
) -> None:
    samples = [carried("8", text="a"), carried("7", text="b"), carried("7", text="c", mean_logprob=-1.0)]
    assert await choose(monkeypatch, samples, [score] * 3) == (2, None)


async def test_replies_without_an_answer_yield_to_those_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [carried(None, text="prose"), carried("7", text="a"), carried("8", text="b")]
    assert await choose(monkeypatch, samples, [1.0, 0.2, 0.1]) == (1, None)
    likely = [carried(None, text="prose", mean_logprob=-0.1), carried("7", text="a", mean_logprob=-2.0)]
    assert await choose(monkeypatch, likely, AssertionError("asked")) == (1, None)
    texts = [carried(None, text="a"), carried(None, text="b")]
    assert await choose(monkeypatch, texts, [0.1, 0.2]) == (1, None)


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (BudgetTooSmall(10, 5), "budget"),
        (EngineUnavailable("gone"), "engine_error"),
        (TimeoutError(), "deadline"),
    ],
)
async def test_a_scorer_that_cannot_be_asked_leaves_log_probability(
    monkeypatch: pytest.MonkeyPatch, error: Exception, short: str
) -> None:
    samples = [carried("7", mean_logprob=-2.0), carried("8", mean_logprob=-0.1)]
    assert await choose(monkeypatch, samples, error) == (1, short)


async def test_agreement_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [carried("7", text="a", mean_logprob=-2.0), carried("7", text="b", mean_logprob=-1.0)]
    assert await choose(monkeypatch, samples, AssertionError("asked")) == (1, None)
