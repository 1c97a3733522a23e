from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from classifier.calibration import ece, ece_floor
from classifier.errors import OneClassOnly, TooFewItems
from classifier.features import COUNT, WIDTH
from classifier.features.matrix import feature_matrix
from classifier.model import ArmClassifier
from classifier.tables import OutcomeTable, parse_table
from tests.outcomes import TOKENS, TRUTH, WORDINGS, digits_of, row, sums

QUICK = {"cs": (0.003, 0.03), "pulls": (1.0, 10.0), "lexical_scales": (1.0,), "rank": 16}


def features(table: OutcomeTable) -> sparse.csr_matrix:
    return feature_matrix([item.messages for item in table.items])


def fitted(table: OutcomeTable, **parameters: object) -> ArmClassifier:
    model = ArmClassifier(arms=table.arms, **{**QUICK, **parameters})
    return model.fit(features(table), table.scores, table.tokens, table.content_groups())


def truth(table: OutcomeTable, by_arm: dict[str, tuple[float, ...]] | None = None) -> np.ndarray:
    known = by_arm or dict(TRUTH)
    return np.array([[known[arm][d - 1] for arm in table.arms] for d in digits_of(table)])


@pytest.fixture(scope="module")
def model() -> ArmClassifier:
    return fitted(sums(900))


@pytest.fixture(scope="module")
def fresh() -> OutcomeTable:
    return sums(600, seed=1)


def test_recovers_the_true_probabilities(model: ArmClassifier, fresh: OutcomeTable) -> None:
    p = model.predict_proba(features(fresh))
    assert p.shape == (600, 3)
    assert np.sqrt(np.mean((p - truth(fresh)) ** 2)) < 0.06
    for arm, expected in enumerate(truth(fresh).T):
        for value in np.unique(expected):
            assert p[expected == value, arm].mean() == pytest.approx(value, abs=0.08)


def test_what_it_says_is_calibrated(model: ArmClassifier, fresh: OutcomeTable) -> None:
    p = model.predict_proba(features(fresh))
    for arm in range(3):
        assert ece(p[:, arm], fresh.scores[:, arm]) < ece_floor(p[:, arm]) + 0.03


def test_two_digits_are_not_one_however_it_is_worded(model: ArmClassifier) -> None:
    for wording in WORDINGS:
        talks = [[{"role": "user", "content": wording.format(s)}] for s in ("4 + 7", "44 + 77", "444 + 777")]
        p = model.predict_proba(feature_matrix(talks))[:, model.arms_.index("direct")]
        np.testing.assert_allclose(p, TRUTH["direct"], atol=0.15)


def test_soft_scores_teach_more_than_hard_ones() -> None:
    held = sums(300, seed=5)
    errors = [
        np.mean((fitted(sums(300, seed=2, soft=soft)).predict_proba(features(held)) - truth(held)) ** 2)
        for soft in (False, True)
    ]
    assert errors[1] < errors[0]
    assert np.sqrt(errors[1]) < 0.06


def test_expected_tokens_and_their_quantile(model: ArmClassifier, fresh: OutcomeTable) -> None:
    mean, high = model.predict_tokens(features(fresh))
    digits = digits_of(fresh)
    for column, arm in enumerate(fresh.arms):
        for d in (1, 2, 3):
            expected = TOKENS[arm] * d * np.exp(0.3**2 / 2)
            assert mean[digits == d, column].mean() == pytest.approx(expected, rel=0.1)
    covered = (fresh.tokens <= high).mean(axis=0)
    assert (covered > 0.91).all()
    assert (covered < 0.99).all()


@pytest.mark.parametrize("count", [2, 10])
def test_any_number_of_arms(count: int) -> None:
    shape = {f"arm {i} ✓": (0.3 + 0.05 * i, 0.2 + 0.03 * i, 0.1 + 0.02 * i) for i in range(count)}
    table = sums(400, truth=shape)
    p = fitted(table).predict_proba(features(table))
    assert p.shape == (400, count)
    assert np.sqrt(np.mean((p - truth(table, shape)) ** 2)) < 0.07
    np.testing.assert_allclose(p.mean(axis=0), table.scores.mean(axis=0), atol=0.02)


def test_gaps_in_the_table_are_no_obstacle(fresh: OutcomeTable) -> None:
    table = sums(600, seed=3)
    scores, tokens = table.scores.copy(), table.tokens.copy()
    gaps = np.random.default_rng(0).random(scores.shape) < 0.4
    scores[gaps], tokens[gaps] = np.nan, np.nan
    model = ArmClassifier(arms=table.arms, **QUICK).fit(features(table), scores, tokens)
    p = model.predict_proba(features(fresh))
    assert np.sqrt(np.mean((p - truth(fresh)) ** 2)) < 0.08


def test_an_arm_with_few_rows_leans_on_the_others_and_on_its_base_rate() -> None:
    alike = {"a": (0.8, 0.5, 0.1), "b": (0.9, 0.6, 0.2), "c": (0.7, 0.4, 0.05)}
    leaning, alone = [], []
    for seed in range(4):
        table = sums(300, seed=seed, truth=alike)
        x, scores, expected = features(table), table.scores.copy(), truth(table, alike)[:, 0]
        scores[30:, 0] = np.nan
        model = ArmClassifier(arms=table.arms, **QUICK).fit(x, scores)
        assert model.head_.trust[0] == pytest.approx(30 / 35)
        assert model.head_.trust[1] > 0.98
        leaning.append(np.mean((model.predict_proba(x)[:, 0] - expected) ** 2))
        single = ArmClassifier(**QUICK).fit(x, scores[:, :1]).predict_proba(x)[:, 0]
        alone.append(np.mean((single - expected) ** 2))
    assert np.mean(leaning) < 0.8 * np.mean(alone)


def test_noise_is_not_mistaken_for_signal() -> None:
    table = sums(400, truth={"a": (0.3, 0.3, 0.3), "b": (0.6, 0.6, 0.6)})
    p = fitted(table, cs=(0.0003, 0.003, 0.03)).predict_proba(features(sums(200, seed=9)))
    assert p.std(axis=0).max() < 0.05
    np.testing.assert_allclose(p.mean(axis=0), table.scores.mean(axis=0), atol=0.03)


# -- ladders

FALSE_LADDER = {"x/sc4": (0.5, 0.4, 0.30), "x/sc16": (0.5, 0.4, 0.28)}


def test_more_samples_never_look_worse() -> None:
    table = sums(300, seed=6, truth=FALSE_LADDER)
    low, high = table.arms.index("x/sc4"), table.arms.index("x/sc16")
    free = fitted(table, groups=None).predict_proba(features(table))
    held = fitted(table).predict_proba(features(table))
    assert (free[:, high] < free[:, low]).any()
    assert (held[:, high] >= held[:, low]).all()


def test_names_yield_to_scores_that_clearly_fall() -> None:
    table = sums(300, truth={"x/sc4": (0.9, 0.8, 0.7), "x/sc16": (0.5, 0.3, 0.1)})
    assert fitted(table).head_.ladders == ()
    named = fitted(table, groups=(("x/sc4", "x/sc16"),))
    p = named.predict_proba(features(table))
    assert (p[:, table.arms.index("x/sc16")] >= p[:, table.arms.index("x/sc4")]).all()


def test_a_ladder_of_unknown_arms_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing"):
        fitted(sums(100), groups=(("direct", "nothing"),))


# -- prompts unlike any other


def test_strange_prompts_go_back_to_the_base_rate(model: ArmClassifier) -> None:
    strange = "Der Fuchs\n" * 40 + "{;} => \\frac $$ ``` | # [x] <y> " * 20 + "漢字" * 50
    talks = [[{"role": "user", "content": text}] for text in (strange, "What is 3 + 4?")]
    x = feature_matrix(talks)
    novelty = model.novelty(x)
    assert novelty.tolist() == [1.0, 0.0]
    np.testing.assert_allclose(model.predict_proba(x)[0], model.head_.base, atol=1e-9)
    assert model.head_.distrust == 1.0


def test_a_trusting_one_believes_what_it_reads_into_strange_prompts() -> None:
    trusting = fitted(sums(300), distrust=0.0)
    x = feature_matrix([[{"role": "user", "content": "Der Fuchs\n" * 40 + "{;} => \\frac $$ ``` | 漢字"}]])
    assert trusting.novelty(x)[0] > 0.5
    assert np.abs(trusting.predict_proba(x)[0] - trusting.head_.base).max() > 0.01


def test_one_fit_doubts_as_another_does(model: ArmClassifier, fresh: OutcomeTable) -> None:
    wary = fitted(sums(120, seed=8))
    before = wary.novelty_
    wary.novelty_ = replace(before, known=0.0, unknown=1e-3)
    x = features(fresh)
    doubting = model.doubting_as(wary)
    assert (doubting.novelty_.known, doubting.novelty_.unknown) == (0.0, 1e-3)
    assert model.novelty_.unknown != 1e-3
    assert doubting.novelty(x).max() > 0.0 == model.novelty(x).max()
    np.testing.assert_array_equal(doubting.novelty_.prototypes, model.novelty_.prototypes)


def kinds(swapped: bool) -> OutcomeTable:
    """Four families in words of their own; `swapped`: what helps in two of them hurts in the others."""
    rng = np.random.default_rng(0)
    lines = []
    for i in range(320):
        family, hard = i % 4, i // 4 % 2
        word = ("river stone moss", "engine valve piston", "violin chord tempo", "ledger invoice audit")[
            family
        ]
        text = f"{word} {'long winding difficult ' * 6 if hard else 'short'} {word} no. {rng.integers(99)}"
        good = 0.9 if hard == (family % 2 if swapped else 0) else 0.1
        for arm, p in (("a", good), ("b", 1.0 - good)):
            lines.append(row(f"q{i}", text, arm, float(rng.random() < p), 10.0, family=f"f{family}"))
    return parse_table(lines)


@pytest.mark.parametrize(("swapped", "least", "most"), [(True, 0.6, 1.0), (False, 0.0, 0.4)])
def test_what_is_learnt_of_some_kinds_is_believed_of_others_only_where_it_holds(
    swapped: bool, least: float, most: float
) -> None:
    table = kinds(swapped)
    families = [item.family for item in table.items]
    kept = [i for i, family in enumerate(families) if family != "f3"]
    x = features(table)
    model = ArmClassifier(arms=table.arms, **QUICK).fit(
        x[kept], table.scores[kept], families=[families[i] for i in kept]
    )
    left_out = [i for i, family in enumerate(families) if family == "f3"]
    moved = model.head_.distrust * model.novelty(x[left_out]).mean()
    assert least <= moved <= most
    assert model.novelty(x[kept]).mean() < 0.1


def test_ordinary_prompts_are_not_strange(model: ArmClassifier, fresh: OutcomeTable) -> None:
    assert model.novelty(features(fresh)).max() < 0.05


# -- manners


def test_parameters_come_and_go_as_scikit_learn_has_it() -> None:
    model = ArmClassifier(arms=("a", "b"), rank=7, calibration="platt")
    copy = clone(model)
    assert copy.get_params() == model.get_params()
    assert copy.set_params(rank=9).rank == 9
    assert model.rank == 7
    assert not [name for name in vars(model) if name.endswith("_")]


def test_a_fit_leaves_the_parameters_alone_and_marks_what_it_learnt(model: ArmClassifier) -> None:
    assert clone(model).get_params() == model.get_params()
    learnt = {"arms_", "strength_", "design_", "linear_", "head_", "token_head_", "novelty_", "cv_loss_"}
    assert learnt <= set(vars(model))
    assert model.cv_loss_[model.strength_] == min(model.cv_loss_.values())


@pytest.mark.parametrize("method", ["predict_proba", "predict_tokens", "novelty"])
def test_nothing_is_predicted_before_a_fit(method: str) -> None:
    with pytest.raises(NotFittedError):
        getattr(ArmClassifier(), method)(sparse.csr_matrix((1, COUNT + WIDTH)))


def test_the_same_rows_give_the_same_numbers() -> None:
    table = sums(120)
    one, two = (fitted(table).predict_proba(features(table)) for _ in range(2))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("constant", [0.0, 1.0, np.nan])
def test_an_arm_of_one_class_is_refused_or_gets_its_rate(constant: float) -> None:
    table = sums(120)
    scores = table.scores.copy()
    scores[:, 1] = constant
    x = features(table)
    with pytest.raises(OneClassOnly, match=repr(table.arms[1])):
        ArmClassifier(arms=table.arms, **QUICK).fit(x, scores)
    p = ArmClassifier(arms=table.arms, one_class="rate", **QUICK).fit(x, scores).predict_proba(x)
    assert np.isfinite(p).all()
    assert (p > 0).all()
    assert (p < 1).all()
    if not np.isnan(constant):
        assert np.abs(p[:, 1] - constant).max() < 0.1


@pytest.mark.parametrize(
    ("scores", "match"),
    [
        (np.full((120, 2), 1.5), r"\[0, 1\]"),
        (np.full((120, 2), np.nan), r"\[0, 1\]"),
        (np.zeros(120), "n, arms"),
        (np.zeros((7, 2)), "n = 120"),
        (np.zeros((120, 0)), "n, arms"),
    ],
)
def test_wrong_scores_are_refused(scores: np.ndarray, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ArmClassifier().fit(features(sums(120)), scores)


def test_wrong_features_and_names_are_refused() -> None:
    table = sums(60)
    with pytest.raises(ValueError, match="feature_matrix"):
        ArmClassifier().fit(sparse.csr_matrix((60, 5)), table.scores)
    with pytest.raises(ValueError, match="2 arm names"):
        ArmClassifier(arms=("a", "b")).fit(features(table), table.scores)


def test_copies_of_one_prompt_cannot_be_cross_validated() -> None:
    table = sums(60)
    with pytest.raises(TooFewItems):
        ArmClassifier().fit(features(table), table.scores, item_groups=np.zeros(60, dtype=np.intp))
