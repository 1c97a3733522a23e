"""What an artifact remembers of its training traffic, and what becomes of it on the way to disk and back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from classifier.arrays import from_arrays, to_arrays
from classifier.artifact import load, save
from classifier.drift.of_training import reference_of_traffic
from classifier.drift.reference import (
    BINS,
    EDGES,
    Reference,
    binned,
    signal_names,
    signal_rows,
)
from classifier.errors import ArtifactCorrupt
from classifier.features import COUNT
from classifier.predictor import DEFAULT_ARTIFACT, Predictor
from tests.unit.test_artifact import ARMS, some_weights

SIGNALS = COUNT + 1 + 3 * len(ARMS)


def some_reference(seed: int = 0, rows: int = 200) -> Reference:
    rng = np.random.default_rng(seed)
    signals = rng.normal(size=(rows, SIGNALS))
    signals[:, 0] = 1.0  # a column that never varied
    signals[:, 1] = rng.random(rows) < 0.1  # a yes-or-no column
    return Reference.of(signals, len(ARMS))


def test_every_signal_has_a_name_and_the_names_are_distinct() -> None:
    names = signal_names(ARMS)
    assert len(names) == len(set(names)) == SIGNALS
    assert names[COUNT] == "ood"
    assert names[COUNT + 1] == f"p {ARMS[0]}"
    assert names[-1] == f"token ratio {ARMS[-1]}"


def test_every_training_row_is_in_a_bin() -> None:
    reference = some_reference()
    assert (reference.counts.sum(axis=1) == 200).all()
    assert reference.counts.shape == (SIGNALS, BINS)


def test_a_column_that_never_varied_notices_values_above_and_below() -> None:
    reference = some_reference()
    rows = np.zeros((3, SIGNALS))
    rows[:, 0] = (0.5, 1.0, 1.5)
    live = binned(reference.edges, rows)[0]
    trained = reference.counts[0]
    assert np.flatnonzero(trained).size == 1
    assert (live[trained > 0] == 1).all()
    assert np.flatnonzero(live).size == 3


def test_a_yes_or_no_column_has_a_bin_for_each() -> None:
    counts = some_reference().counts[1]
    assert np.count_nonzero(counts) == 2


def test_values_that_are_not_known_are_not_counted() -> None:
    reference = some_reference()
    rows = np.full((5, SIGNALS), np.nan)
    rows[0] = 0.0
    assert (binned(reference.edges, rows).sum(axis=1) == 1).all()


@given(
    arrays.arrays(
        np.float64,
        st.tuples(st.integers(1, 60), st.just(1)),
        elements=st.floats(-1e6, 1e6) | st.sampled_from([0.0, 1.0]),
    )
)
def test_any_column_is_binned_whole_and_in_order(column: np.ndarray) -> None:
    reference = Reference.of(np.hstack([column] * SIGNALS), len(ARMS))
    assert reference.edges.shape == (SIGNALS, EDGES)
    assert (reference.counts.sum(axis=1) == len(column)).all()
    assert np.all(np.diff(reference.edges[0][np.isfinite(reference.edges[0])]) > 0)
    # no value of training lies above the last edge
    assert reference.counts[0][np.isfinite(reference.edges[0]).sum()] == 0


def test_predicted_and_spent_tokens_become_logarithms_and_their_ratio() -> None:
    rows = signal_rows(
        np.zeros((1, COUNT)),
        np.array([0.2]),
        np.array([[0.5]]),
        np.array([[100.0]]),
        np.array([[200.0]]),
    )[0]
    assert rows[COUNT:].tolist() == pytest.approx([0.2, 0.5, np.log(100.0), np.log(2.0)])


def test_an_arm_that_was_not_tried_has_no_ratio() -> None:
    rows = signal_rows(
        np.zeros((1, COUNT)), np.zeros(1), np.zeros((1, 1)), np.ones((1, 1)), np.full((1, 1), np.nan)
    )
    assert np.isnan(rows[0, -1])


def test_it_survives_the_artifact(tmp_path: Path) -> None:
    weights = replace(some_weights(), reference=some_reference())
    save(tmp_path / "model", ARMS, weights, {})
    found = load(tmp_path / "model").weights.reference
    assert found is not None
    assert np.array_equal(found.edges, some_reference().edges)
    assert np.array_equal(found.counts, some_reference().counts)


def test_an_artifact_from_before_has_none(tmp_path: Path) -> None:
    save(tmp_path / "model", ARMS, some_weights(), {})
    assert load(tmp_path / "model").weights.reference is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("drift_edges", np.zeros((SIGNALS, EDGES + 1))),
        ("drift_edges", np.tile(np.arange(EDGES, 0.0, -1.0), (SIGNALS, 1))),
        ("drift_edges", np.full((SIGNALS, EDGES), np.nan)),
        ("drift_lengths", np.full(SIGNALS, EDGES + 1)),
        ("drift_lengths", np.zeros(SIGNALS)),
        ("drift_counts", np.full((SIGNALS, BINS), -1)),
        ("drift_counts", np.zeros((SIGNALS, BINS - 1), dtype=np.int64)),
    ],
)
def test_damage_is_named(name: str, value: np.ndarray) -> None:
    arrays_of = to_arrays(replace(some_weights(), reference=some_reference()))
    arrays_of["drift_lengths"] = np.full(SIGNALS, EDGES)
    arrays_of["drift_edges"] = np.tile(np.arange(float(EDGES)), (SIGNALS, 1))
    assert from_arrays(arrays_of, len(ARMS)).reference is not None
    arrays_of[name] = value
    with pytest.raises(ArtifactCorrupt, match=name):
        from_arrays(arrays_of, len(ARMS))


def test_a_missing_half_is_named() -> None:
    arrays_of = to_arrays(replace(some_weights(), reference=some_reference()))
    del arrays_of["drift_counts"]
    with pytest.raises(ArtifactCorrupt, match="drift_counts"):
        from_arrays(arrays_of, len(ARMS))


def test_the_shipped_classifier_has_one() -> None:
    artifact = load(DEFAULT_ARTIFACT)
    reference = artifact.weights.reference
    assert reference is not None
    prompts = artifact.card["counts"]["items"]
    assert reference.counts.sum(axis=1).tolist() == [prompts] * len(signal_names(artifact.arms))


def test_traffic_that_a_calibration_saw_becomes_the_reference() -> None:
    artifact = load(DEFAULT_ARTIFACT)
    told = [[{"role": "user", "content": f"What is {n} + {n}?"}] for n in range(20)]
    tokens = np.full((20, len(artifact.arms)), np.nan)
    tokens[:, 0] = 50.0
    reference = reference_of_traffic(artifact, told, tokens)
    per_signal = reference.counts.sum(axis=1)
    assert (per_signal[: COUNT + 1 + 2 * len(artifact.arms)] == 20).all()
    assert per_signal[-len(artifact.arms) :].tolist() == [20, *([0] * (len(artifact.arms) - 1))]
    one = Predictor(artifact).predict(told[0])
    p = artifact.arms[0]
    row = COUNT + 1
    assert reference.edges[row][0] <= one.p[p] <= reference.edges[row][np.isfinite(reference.edges[row])][-1]
