from __future__ import annotations

import numpy as np
import pytest

from classifier.evaluate import arm_metrics, frontier, price_for

ARMS = ("cheap", "dear")


def two_kinds(count: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Half the prompts need the dear arm, half do as well with the cheap one: p, scores, tokens."""
    easy = (np.arange(count) % 2 == 0)[:, None]
    scores = np.where(easy, [1.0, 1.0], [0.0, 1.0])
    return np.where(easy, [0.95, 0.96], [0.05, 0.9]), scores, np.tile([10.0, 100.0], (count, 1))


def test_metrics_by_hand() -> None:
    p = np.array([[0.5, 0.9], [0.5, 0.2], [np.nan, 0.9], [0.5, 0.1]])
    scores = np.array([[1.0, 1.0], [0.0, 0.0], [1.0, np.nan], [np.nan, 0.0]])
    metrics = arm_metrics(ARMS, p, scores, np.full((4, 2), 0.25))
    assert metrics["cheap"]["items"] == 2
    assert metrics["cheap"]["base_rate"] == 0.5
    assert metrics["cheap"]["brier"] == pytest.approx(0.25)
    assert metrics["cheap"]["brier_base"] == pytest.approx((0.75**2 + 0.25**2) / 2)
    assert metrics["cheap"]["auc"] == 0.5
    assert metrics["dear"]["auc"] == 1.0
    assert metrics["dear"]["ece"] == pytest.approx(0.4 / 3)


def test_metrics_where_nothing_is_defined() -> None:
    metrics = arm_metrics(ARMS, np.full((3, 2), np.nan), np.ones((3, 2)), np.full((3, 2), np.nan))
    assert metrics["cheap"]["items"] == 0
    assert metrics["cheap"]["base_rate"] is None
    assert metrics["cheap"]["auc"] is None
    one_class = arm_metrics(ARMS, np.full((3, 2), 0.5), np.ones((3, 2)), np.full((3, 2), 0.5))
    assert one_class["dear"]["auc"] is None


def test_a_router_that_knows_finds_the_oracle() -> None:
    p, scores, tokens = two_kinds()
    rows = {row.name: row for row in frontier(ARMS, p, tokens, scores, tokens)}
    assert rows["cheap (all-cheap)"].accuracy == 0.5
    assert rows["dear (all-dear) (best fixed)"].tokens == 100.0
    assert rows["random arm"].accuracy == pytest.approx(0.75)
    assert (rows["oracle"].accuracy, rows["oracle"].tokens) == (1.0, 55.0)
    routed = rows["router, 75% of that"]
    assert (routed.accuracy, routed.tokens) == (1.0, 55.0)
    assert routed.mix_accuracy == pytest.approx(0.75)
    assert rows["router, price 0"].lam == 0.0


def test_an_ignorant_router_gains_nothing() -> None:
    _, scores, tokens = two_kinds()
    p = np.tile([0.5, 0.9], (len(scores), 1))
    for row in frontier(ARMS, p, tokens, scores, tokens):
        if row.name.startswith("router"):
            assert row.accuracy == pytest.approx(row.mix_accuracy)


def test_the_mix_is_the_hull_and_not_the_line_to_a_bad_arm() -> None:
    scores = np.tile([1.0, 0.0, 1.0, 0.0], (10, 1))
    scores[:5, 0] = 0.0
    tokens = np.tile([10.0, 20.0, 30.0, 5.0], (10, 1))
    rows = {r.name: r for r in frontier("abcd", np.full((10, 4), 0.5), tokens, scores, tokens)}
    assert rows["b"].mix_accuracy == pytest.approx(0.75)
    assert rows["a"].mix_accuracy == pytest.approx(0.5)
    assert rows["d (all-cheap)"].mix_accuracy == 0.0
    assert rows["c (all-dear) (best fixed)"].mix_accuracy == 1.0


def test_a_hopeless_prompt_costs_the_oracle_the_least() -> None:
    scores, tokens = np.zeros((4, 2)), np.tile([10.0, 100.0], (4, 1))
    assert frontier(ARMS, np.full((4, 2), 0.5), tokens, scores, tokens)[-1].tokens == 10.0


def test_only_complete_prompts_count() -> None:
    p, scores, tokens = two_kinds()
    scores[::2, 1] = np.nan
    rows = frontier(ARMS, p, tokens, scores, tokens)
    assert rows[0].accuracy == 0.0
    scores[:, 1] = np.nan
    assert frontier(ARMS, p, tokens, scores, tokens) == []


def test_the_price_meets_the_budget() -> None:
    rng = np.random.default_rng(0)
    p = np.sort(rng.random((2_000, 3)), axis=1)
    expected = np.tile([10.0, 500.0, 250_000.0], (2_000, 1))
    for budget in (100.0, 2_000.0, 50_000.0):
        choice = np.argmax(p - price_for(p, expected, budget) * expected, axis=1)
        assert 0.9 * budget < expected[0, choice].mean() <= budget
    assert price_for(p, expected, 1e9) == 0.0
