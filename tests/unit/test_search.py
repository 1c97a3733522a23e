from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from scipy import sparse
from threadpoolctl import threadpool_limits

from classifier.design import Design
from classifier.features import COUNT
from classifier.features.matrix import feature_matrix
from classifier.search import Fold, Grid, Strength, log_loss, search
from classifier.tables import OutcomeTable
from tests.outcomes import sums


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As the estimator has it: products this thin are slower on several threads."""
    with threadpool_limits(limits=1):
        yield


def folds_of(count: int) -> list[Fold]:
    at = np.arange(count)
    return [(at[at % 3 != k], at[at % 3 == k]) for k in range(3)]


def prepared(table: OutcomeTable) -> tuple[Design, sparse.csr_matrix, list[Fold]]:
    x = feature_matrix([item.messages for item in table.items])
    # folds by threes of digits would leave a size out: shuffle
    order = np.random.default_rng(0).permutation(len(table.items))
    folds = [(order[fit_on], order[out]) for fit_on, out in folds_of(len(order))]
    return Design.fit(x, 8, 0), x, folds


def test_the_best_that_was_tried_wins() -> None:
    table = sums(240)
    design, x, folds = prepared(table)
    grid = Grid((0.0001, 0.01, 1.0), (10.0, 1.0), (1.0, 0.3))
    best, logits, losses = search(design, x, table.scores, folds, grid)
    assert losses[best] == min(losses.values())
    assert log_loss(logits, table.scores) == pytest.approx(losses[best])
    assert len(losses) < 12


def test_signal_asks_for_less_restraint_than_noise() -> None:
    strengths = []
    for p in ((0.98, 0.5, 0.02), (0.5, 0.5, 0.5)):
        table = sums(240, truth={"a": p, "b": p})
        best, _, _ = search(*_arranged(table), Grid((0.0001, 0.001, 0.01, 0.1), (10.0,), (1.0,)))
        strengths.append(best.c)
    assert strengths[0] > 10 * strengths[1]


def _arranged(table: OutcomeTable) -> tuple[Design, sparse.csr_matrix, np.ndarray, list[Fold]]:
    design, x, folds = prepared(table)
    return design, x, table.scores, folds


def test_a_prompt_never_predicts_itself() -> None:
    # labels at random on prompts that are all different: in-sample they could be learnt by heart
    table = sums(120, truth={"a": (0.5, 0.5, 0.5), "b": (0.5, 0.5, 0.5)})
    _, logits, losses = search(*_arranged(table), Grid((10.0,), (10.0,), (3.0,)))
    assert losses[Strength(10.0, 10.0, 3.0)] > np.log(2.0)
    assert np.isfinite(logits).all()


def test_one_candidate_is_one_fit() -> None:
    table = sums(60)
    best, _, losses = search(*_arranged(table), Grid((0.01,), (1.0,), (0.3,)))
    assert best == Strength(0.01, 1.0, 0.3)
    assert list(losses) == [best]


def test_log_loss_by_hand() -> None:
    logits = np.array([[0.0, 100.0], [-100.0, 3.0]])
    scores = np.array([[0.25, 1.0], [0.0, np.nan]])
    assert log_loss(logits, scores) == pytest.approx(np.log(2.0) / 3)


def test_raw_features_are_what_the_design_expects() -> None:
    _, x, _ = prepared(sums(12))
    assert x.shape[1] > COUNT
