"""Where distrust begins and how far it goes, on held-out rows whose best answer is known by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from classifier.distrust import Held, kind_folds, kinds_of, learn_distrust
from classifier.features import COUNT, WIDTH
from classifier.features.lexical import WORD_BUCKETS
from classifier.forward import KNOWN, UNKNOWN, Novelty


def plain() -> Novelty:
    """One kind at 0 with radius 1, and no rare words."""
    rare = np.zeros(WORD_BUCKETS, dtype=bool)
    return Novelty(np.zeros(COUNT), np.ones(COUNT), np.zeros((1, COUNT)), np.ones(1), rare, 0.2)


def held(shape: float, worth: float, rows: int = 50) -> Held:
    """Rows at `shape` radii whose squared error is least where p moves by `worth` to the base rate."""
    return Held(np.full(rows, shape), np.zeros(rows), np.full(rows, 0.1 * worth), np.full(rows, 0.1))


def test_where_only_far_prompts_mislead_the_ramp_lies_between() -> None:
    novelty, distrust = learn_distrust(plain(), [held(0.9, 0.0), held(1.6, 1.0)], named=True)
    assert novelty.ramp(np.array([0.9]), np.zeros(1))[0] == 0.0
    assert novelty.ramp(np.array([1.6]), np.zeros(1))[0] == 1.0
    assert distrust == 1.0


def test_where_nothing_misleads_everything_is_believed() -> None:
    novelty, distrust = learn_distrust(plain(), [held(0.5, 0.0), held(4.0, -1.0)], named=True)
    assert distrust * novelty.ramp(np.array([4.0]), np.zeros(1))[0] == 0.0


def test_half_a_truth_is_half_believed() -> None:
    novelty, distrust = learn_distrust(plain(), [held(0.5, 0.0), held(7.0, 0.5)], named=True)
    moved = distrust * novelty.ramp(np.array([7.0]), np.zeros(1))[0]
    assert moved == pytest.approx(0.5, abs=0.05)


def test_clusters_teach_where_it_begins_and_not_how_far_it_goes() -> None:
    novelty, distrust = learn_distrust(plain(), [held(0.5, 0.0), held(7.0, 0.5)], named=False)
    assert distrust == 1.0
    assert novelty.ramp(np.array([50.0]), np.zeros(1))[0] == 1.0


def test_rare_words_alone_are_a_sign() -> None:
    strange = Held(np.full(50, 0.5), np.full(50, 0.6), np.full(50, 0.1), np.full(50, 0.1))
    novelty, distrust = learn_distrust(plain(), [held(0.5, 0.0), strange], named=True)
    assert distrust * novelty.ramp(np.array([0.5]), np.array([0.6]))[0] > 0.9
    assert novelty.rare_to < 1.0


def test_equal_losses_leave_the_most_trusting_ramp() -> None:
    novelty, _ = learn_distrust(plain(), [held(0.1, 0.0)], named=True)
    assert (novelty.known, novelty.unknown, novelty.rare_to) == (KNOWN, UNKNOWN, 1.0)


def test_the_loss_that_is_counted_is_that_of_the_moved_p() -> None:
    rng = np.random.default_rng(0)
    p, base, scores = rng.random((30, 3)), np.array([0.2, 0.5, 0.7]), (rng.random((30, 3)) < 0.5) * 1.0
    scores[rng.random(scores.shape) < 0.2] = np.nan
    told = Held.of(plain(), sparse.csr_matrix((30, COUNT + WIDTH)), p, base, scores)
    share = 0.37
    before = np.nansum((p - scores) ** 2, axis=1)
    after = np.nansum((p + share * (base - p) - scores) ** 2, axis=1)
    np.testing.assert_allclose(after - before, share**2 * told.size - 2.0 * share * told.pull, atol=1e-12)


def test_families_are_the_kinds_where_there_are_three() -> None:
    x = sparse.csr_matrix((6, COUNT + WIDTH))
    families = np.array([0, 0, 1, 1, 2, 2])
    assert kinds_of(x, plain(), families) is families
    for few in (None, np.array([0, 0, 0, 1, 1, 1])):
        assert kinds_of(x, plain(), few).tolist() == [0] * 6


def test_kinds_are_left_out_whole_and_copies_with_them() -> None:
    kinds = np.repeat(np.arange(7), 10)
    groups = np.arange(70)
    groups[65] = groups[3]  # a copy in another kind
    folds = kind_folds(kinds, groups, random_state=0)
    assert len(folds) == 5
    assert sorted(np.concatenate([out for _, out in folds])) == list(range(70))
    for kept, out in folds:
        assert not set(kinds[kept]) & set(kinds[out])
        assert not set(groups[kept]) & set(groups[out])
    assert kind_folds(kinds[:20], groups[:20], random_state=0) == []
