from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy import sparse

from classifier.features import COUNT, WIDTH
from classifier.features.lexical import WORD_BUCKETS
from classifier.forward import Novelty, nearest, standardise
from classifier.novelty import fit_novelty, rare_shares


def rows(structural: np.ndarray, words: Sequence[Sequence[int]] = ()) -> sparse.csr_matrix:
    """Raw features with these named columns, and 1 in these word buckets of the first rows."""
    lexical = sparse.lil_matrix((len(structural), WIDTH))
    for row, buckets in enumerate(words):
        for bucket in buckets:
            lexical[row, bucket] = 1.0
    return sparse.csr_matrix(sparse.hstack([sparse.csr_matrix(structural), lexical.tocsr()]))


def fitted(structural: np.ndarray, seed: int = 0) -> Novelty:
    return fit_novelty(rows(structural), random_state=seed)


def score(novelty: Novelty, structural: np.ndarray) -> np.ndarray:
    """Of rows whose words are all known."""
    return novelty.score(structural, np.zeros(len(structural)))


def kinds(count: int, seed: int = 0) -> np.ndarray:
    """Rows of three kinds that lie far apart in the first two columns; the last column never varies."""
    rng = np.random.default_rng(seed)
    made = rng.normal(0.0, 0.3, (count, COUNT))
    made[:, :2] += np.array([[0.0, 0.0], [40.0, 0.0], [0.0, 40.0]])[np.arange(count) % 3]
    made[:, -1] = 2.0
    return made


def test_rows_like_those_seen_score_nothing() -> None:
    novelty = fitted(kinds(600))
    assert score(novelty, kinds(300, seed=1)).max() == 0.0


def test_a_kind_between_the_kinds_seen_is_new() -> None:
    # (20, 20) lies at the mean of what was seen: a single distance from it would call this ordinary
    novelty = fitted(kinds(600))
    between = kinds(9)
    between[:, :2] = 20.0
    between[:, 2:] *= 20.0
    assert score(novelty, between).min() > 0.2


def test_a_column_that_never_varied_is_a_sign_when_it_does() -> None:
    novelty = fitted(kinds(600))
    changed = kinds(3)
    before = score(novelty, changed)
    changed[:, -60:] += 100.0
    assert (score(novelty, changed) > before).all()


def test_the_score_stays_within_0_and_1() -> None:
    novelty = fitted(kinds(200))
    huge = np.full((1, COUNT), 1e12)
    for sign in (1.0, -1.0):
        assert 0.2 < score(novelty, sign * huge)[0] <= 1.0


@pytest.mark.parametrize("count", [1, 2, 3, 40])
def test_few_or_equal_rows_are_enough(count: int) -> None:
    novelty = fitted(np.ones((count, COUNT)))
    assert len(novelty.radii) == 1
    assert score(novelty, np.ones((1, COUNT)))[0] == 0.0


def test_prototypes_are_bounded_and_repeatable() -> None:
    one, two = (fitted(kinds(1_500), seed=3) for _ in range(2))
    assert 3 <= len(one.radii) <= 24
    np.testing.assert_array_equal(one.prototypes, two.prototypes)


def test_the_nearest_prototype_by_hand() -> None:
    at, distance = nearest(np.array([[0.0, 3.0], [9.0, 0.0]]), np.array([[0.0, 0.0], [10.0, 0.0]]))
    assert at.tolist() == [0, 1]
    np.testing.assert_allclose(distance, [3.0, 1.0])


def test_standardised_columns_are_clipped_and_constants_ignored() -> None:
    z = standardise(np.array([[1e9, 7.0, 3.0]]), np.array([0.0, 0.0, 1.0]), np.array([1.0, 0.0, 0.5]))
    assert z.tolist() == [[5.0, 0.0, 1.0]]


def plain(limit: float) -> Novelty:
    """One kind at 0 with radius 1; the first word bucket is known, the second rare."""
    rare = np.ones(WORD_BUCKETS, dtype=bool)
    rare[0] = False
    return Novelty(np.zeros(COUNT), np.ones(COUNT), np.zeros((1, COUNT)), np.ones(1), rare, limit)


def test_distance_counts_from_two_and_a_half_radii_to_six_and_a_half() -> None:
    structural = np.zeros((3, COUNT))
    structural[:, 0] = [2.5, 4.5, 5.0]
    structural[2, 1:4] = 5.0
    np.testing.assert_allclose(score(plain(0.5), structural), [0.0, 0.5, 1.0])


def test_words_count_from_the_limit_to_all_of_them() -> None:
    shares = np.array([0.0, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(plain(0.5).score(np.zeros((4, COUNT)), shares), [0.0, 0.0, 0.5, 1.0])
    assert plain(1.0).score(np.zeros((1, COUNT)), np.ones(1))[0] == 0.0


def test_the_rare_share_of_one_prompt_is_that_of_its_row() -> None:
    novelty = plain(0.5)
    x = rows(np.zeros((4, COUNT)), [[0], [0, 1], [1, 2, WORD_BUCKETS + 5], [WORD_BUCKETS + 5]])
    expected = [0.0, 0.5, 1.0, 1.0]
    assert rare_shares(x, novelty.rare).tolist() == expected
    for row, share in enumerate(expected):
        one = x[row, COUNT:]
        assert novelty.rare_share(one.indices, one.data) == share


def test_words_are_rare_by_the_prompts_that_have_them() -> None:
    x = rows(np.zeros((100, COUNT)), [[7, 8, 100 + i] for i in range(100)])
    novelty = fit_novelty(x, random_state=0)
    assert not novelty.rare[[7, 8, 100]].any()
    assert novelty.rare[[9, 99, 200]].all()
    # each prompt has one word of its own among three: new to a model that had not seen that prompt
    assert novelty.rare_limit == pytest.approx(1 / 3)
