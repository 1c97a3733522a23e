from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifier.arrays import from_arrays, to_arrays
from classifier.artifact import CARD, WEIGHTS, Artifact, load, save
from classifier.confidence import FACTS, Confidence, SampleFacts
from classifier.confidence_fit import MIN_ROWS, fit_confidences
from classifier.errors import ArtifactCorrupt, ArtifactIncompatible, InvalidRow
from classifier.predictor import Predictor
from classifier.tables import OutcomeTable, parse_table
from classifier.train import TrainReport, train
from tests.outcomes import row
from tests.unit.test_artifact import ARMS, some_weights

FITTED = Confidence((-0.4, 0.75, 0.4, -0.8, -0.2, 0.2), (-0.6, 3.0), (2.8, 0.9), 0.01)
SURE = SampleFacts(-0.05, 5, cut=False, answered=True)
RAMBLING = SampleFacts(-1.5, 400, cut=True, answered=False)


def sample(right: bool, rng: np.random.Generator, tells: float) -> dict[str, object]:
    """A sample whose log-probability tells `tells` deviations about its being right."""
    logprob = -0.5 + 0.2 * (float(rng.normal()) + tells * (right - 0.5))
    tokens = int(rng.integers(5, 100))
    return {"answer": "7", "score": float(right), "completion_tokens": tokens, "mean_logprob": logprob}


def recorded(count: int, tells: float, seed: int = 0) -> OutcomeTable:
    """`count` sums, half of them easy; arm direct keeps its sample, arm vote two, arm bare none."""
    rng = np.random.default_rng(seed)
    lines = []
    for i in range(count):
        text = f"What is {i} + {i}?" if i % 2 else f"What is {i} * {i + 977_000}?"
        for arm, p in (("bare", 0.5), ("direct", 0.75 if i % 2 else 0.25), ("vote", 0.6)):
            right = bool(rng.random() < p)
            samples = {"direct": 1, "vote": 2}.get(arm, 0)
            told = [sample(right, rng, tells) for _ in range(samples)]
            lines.append(row(f"q{i}", text, arm, float(right), samples=told))
    return parse_table(lines)


def priors(table: OutcomeTable) -> np.ndarray:
    easy = np.array([0.75 if int(item.prompt_id[1:]) % 2 else 0.25 for item in table.items])
    return np.repeat(easy[:, None], len(table.arms), axis=1)


def fitted(table: OutcomeTable, p: np.ndarray) -> tuple[Confidence, dict[str, object]]:
    found = fit_confidences(table, p, table.content_groups(), 0)
    assert set(found.models) == {"direct"}  # votes and arms without samples are nobody's business
    return found.models["direct"], dict(found.metrics["direct"])


# -- what a sample adds


def test_the_default_is_the_prior() -> None:
    for facts in (SURE, RAMBLING):
        assert Confidence().of(0.3, facts) == pytest.approx(0.3)


def test_without_a_log_probability_the_prior_stays() -> None:
    for unknown in (None, math.nan, -math.inf):
        assert FITTED.of(0.3, replace(SURE, mean_logprob=unknown)) == 0.3


def test_evidence_moves_it() -> None:
    assert FITTED.of(0.5, RAMBLING) < 0.2 < 0.5 < FITTED.of(0.5, SURE)


chances = st.floats(0.0, 1.0)
seen = st.builds(
    SampleFacts,
    mean_logprob=st.none() | st.floats(-1e6, 0.0),
    completion_tokens=st.integers(0, 10**6),
    cut=st.booleans(),
    answered=st.booleans(),
)


@given(chances, chances, seen)
def test_it_is_a_probability_and_never_falls_as_the_prior_rises(
    p: float, q: float, facts: SampleFacts
) -> None:
    low, high = (FITTED.of(x, facts) for x in sorted((p, q)))
    assert 0.0 <= low <= high <= 1.0
    if facts.mean_logprob is not None:
        assert 0.01 <= low <= high <= 0.99  # no surer than its rows allow


# -- learning it


def test_a_telling_sample_beats_the_prior_on_held_out_prompts() -> None:
    table = recorded(300, tells=2.0)
    model, metrics = fitted(table, priors(table))
    assert metrics["fitted"]
    ours, prior = metrics["confidence"], metrics["prior"]
    assert isinstance(ours, dict)
    assert isinstance(prior, dict)
    assert ours["brier"] < 0.9 * prior["brier"]
    assert ours["auc"] > prior["auc"] + 0.05
    assert ours["ece"] < ours["ece_floor"] + 0.05
    likely, unlikely = (SampleFacts(logprob, 40, False, True) for logprob in (-0.2, -0.8))
    assert model.of(0.5, likely) > 0.6 > 0.4 > model.of(0.5, unlikely)


def test_a_sample_that_tells_nothing_leaves_the_prior() -> None:
    table = recorded(300, tells=0.0)
    model, metrics = fitted(table, priors(table))
    assert model == Confidence()
    assert metrics["confidence"] == metrics["prior"]
    assert metrics["items"] == 300


def test_few_rows_leave_the_prior() -> None:
    table = recorded(MIN_ROWS - 1, tells=9.0)
    assert fitted(table, priors(table))[0] == Confidence()


def test_rows_without_a_held_out_prior_or_a_log_probability_are_not_learnt_from() -> None:
    table = recorded(300, tells=2.0)
    p = priors(table)
    p[:150] = np.nan
    table.facts[150:200, 1, 0] = np.nan
    assert fitted(table, p)[1]["items"] == 100


def test_a_misleading_prior_is_dropped_and_never_turned_round() -> None:
    table = recorded(300, tells=2.0)
    model, _ = fitted(table, 1.0 - priors(table))
    assert model.weights[1] == pytest.approx(0.0, abs=1e-9)
    assert model.of(0.9, SURE) >= model.of(0.1, SURE)


# -- the table


def test_only_arms_of_one_sample_have_facts() -> None:
    lines = [
        row("a", "1?", "one", 1.0, samples=[{"answer": "7", "completion_tokens": 9, "mean_logprob": -0.5}]),
        row("b", "2?", "one", 1.0, samples=[{"answer": None, "completion_tokens": 30, "mean_logprob": None}]),
        row("c", "3?", "one", 1.0),
        row("a", "1?", "search", 1.0, samples=[{"answer": "7", "completion_tokens": 9}]),
        row("b", "2?", "search", 1.0, samples=[{}, {}]),
    ]
    facts = parse_table(lines).facts
    assert facts.shape == (3, 2, FACTS)
    assert np.isnan(facts[:, 1]).all()
    np.testing.assert_array_equal(facts[0, 0], [-0.5, 9.0, 0.0, 1.0])
    np.testing.assert_array_equal(facts[1, 0], [np.nan, 30.0, 1.0, 0.0])  # as long as any: it was cut
    assert np.isnan(facts[2, 0]).all()
    np.testing.assert_array_equal(parse_table(lines).subset([1]).facts[0, 0, 3], 0.0)


def test_a_table_that_says_how_samples_ended_is_believed() -> None:
    told = [
        {"answer": "7", "completion_tokens": 9, "mean_logprob": -1, "finish": end}
        for end in ("stop", "length")
    ]
    table = parse_table([row(str(i), f"{i}?", "one", 1.0, samples=[one]) for i, one in enumerate(told)])
    assert table.facts[:, 0, 2].tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    "bad", [[3], [{"mean_logprob": "x"}], [{"completion_tokens": True}], [{"mean_logprob": -1e300}]]
)
def test_samples_that_are_none(bad: list[object]) -> None:
    with pytest.raises(InvalidRow, match="samples"):
        parse_table([row("a", "1?", "one", 1.0, samples=bad)])


# -- the artifact


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> TrainReport:
    folder = tmp_path_factory.mktemp("train") / "model"
    return train(recorded(200, tells=3.0), folder, seed=0, date="2020-01-01")


def test_training_fits_saves_and_reports_it(report: TrainReport) -> None:
    assert report.confidence["direct"]["items"] == 200
    assert load(report.artifact).card["metrics"]["confidence"] == report.confidence
    messages = [{"role": "user", "content": "What is 3 + 3?"}]
    prediction = Predictor.load(report.artifact).predict(messages)
    likely, unlikely = (
        prediction.confidence("direct", SampleFacts(logprob, 40, False, True)) for logprob in (-0.1, -0.9)
    )
    assert likely is not None
    assert unlikely is not None
    assert unlikely < prediction.p["direct"] < likely
    assert prediction.confidence("vote", SURE) is None
    assert prediction.confidence("unheard/of", SURE) is None


def test_an_artifact_without_it_judges_nothing(report: TrainReport) -> None:
    old = load(report.artifact)
    bare = Artifact(old.arms, replace(old.weights, confidences={}), old.card, old.version)
    prediction = Predictor(bare).predict([{"role": "user", "content": "What is 3 + 3?"}])
    assert prediction.confidence("direct", SURE) is None


def test_it_survives_being_saved(tmp_path: Path) -> None:
    weights = replace(some_weights(), confidences={2: FITTED, 0: Confidence()})
    save(tmp_path / "m", ARMS, weights, {})
    assert load(tmp_path / "m").weights.confidences == {0: Confidence(), 2: FITTED}
    save(tmp_path / "m", ARMS, some_weights(), {})
    assert load(tmp_path / "m").weights.confidences == {}
    assert {path.name for path in (tmp_path / "m").iterdir()} >= {WEIGHTS, CARD}


Change = Callable[[dict[str, np.ndarray]], object]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda a: a.update(confidence_version=np.array(2)), ArtifactIncompatible),
        (lambda a: a.pop("confidence_version"), ArtifactCorrupt),
        (lambda a: a.pop("confidence_floor"), ArtifactCorrupt),
        (lambda a: a.update(confidence_arms=np.array([0, 0])), ArtifactCorrupt),
        (lambda a: a.update(confidence_arms=np.array([0, 3])), ArtifactCorrupt),
        (lambda a: a.update(confidence_weights=np.zeros((2, 5))), ArtifactCorrupt),
        (lambda a: a.update(confidence_weights=-np.ones((2, 6))), ArtifactCorrupt),
        (lambda a: a.update(confidence_inverse=-np.ones((2, 2))), ArtifactCorrupt),
        (lambda a: a.update(confidence_centre=np.full((2, 2), np.nan)), ArtifactCorrupt),
        (lambda a: a.update(confidence_floor=np.array([0.1, 0.6])), ArtifactCorrupt),
    ],
)
def test_what_is_out_of_place_is_refused(change: Change, error: type[Exception]) -> None:
    arrays = to_arrays(replace(some_weights(), confidences={0: FITTED, 2: FITTED}))
    change(arrays)
    with pytest.raises(error, match="train"):
        from_arrays(arrays, 3)
