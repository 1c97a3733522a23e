"""A replica's gauges: what moves them, what does not, and that they stay bounded."""

from __future__ import annotations

from dataclasses import replace

import pytest

from classifier.artifact import Artifact, load
from classifier.drift.reference import signal_names
from classifier.predictor import DEFAULT_ARTIFACT
from router.drift import gauges as named
from router.drift import live
from router.drift.gauges import COUNTERS, GAUGES, MemoryGauges
from router.drift.live import DriftWatch
from tests.unit.test_drift_report import ARM, WRONG, decided, rung


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def artifact() -> Artifact:
    return load(DEFAULT_ARTIFACT)


def watched(artifact: Artifact, clock: Clock | None = None) -> tuple[DriftWatch, MemoryGauges]:
    gauges = MemoryGauges()
    return DriftWatch(artifact, gauges, clock=clock or Clock()), gauges


UNKNOWN = {"verified": None, "rungs": (rung(),)}


def test_traffic_like_the_trainings_moves_nothing(artifact: Artifact) -> None:
    watch, gauges = watched(artifact)
    for decision in decided():
        watch.add(decision)
    watch.tell()
    assert gauges.values[named.ROWS, None] == len(decided())
    shapes = {label: v for (name, label), v in gauges.values.items() if name == named.PSI}
    assert set(shapes) <= set(signal_names(artifact.arms))
    assert max(v for name, v in shapes.items() if name and not name.startswith(("token", "ood"))) < 0.1
    assert abs(gauges.values[named.GAP, ARM]) < 0.1
    assert gauges.values[named.CALIBRATION, ARM] < gauges.values[named.NOISE, ARM] + 0.1
    assert gauges.values[named.ABOVE, ARM] < 0.15
    assert gauges.counts == {named.LABELLED: len(decided())}


def test_an_engine_that_got_worse_shows(artifact: Artifact) -> None:
    watch, gauges = watched(artifact)
    for decision in decided()[:200]:
        watch.add(replace(decision, **WRONG))
    watch.tell()
    assert gauges.values[named.GAP, ARM] < -0.1


def test_other_traffic_shows(artifact: Artifact) -> None:
    watch, gauges = watched(artifact)
    for decision in decided()[:100]:
        watch.add(replace(decision, structural=decided()[0].structural, ood=1.0))
    watch.tell()
    assert gauges.values[named.PSI, "chars"] > 1.0
    assert gauges.values[named.OOD, None] == 1.0


def test_every_name_and_label_is_declared(artifact: Artifact) -> None:
    watch, gauges = watched(artifact)
    for decision in decided()[:100]:
        watch.add(decision)
    watch.tell()
    assert {name for name, _ in gauges.values} == set(GAUGES)
    assert set(gauges.counts) == {named.LABELLED} <= set(COUNTERS)
    assert all((label is None) == (GAUGES[name][1] is None) for name, label in gauges.values)
    labels = {label for _, label in gauges.values if label is not None}
    assert labels <= {*signal_names(artifact.arms), *artifact.arms}


def test_gauges_are_set_when_it_is_time_and_not_before(artifact: Artifact) -> None:
    clock = Clock()
    watch, gauges = watched(artifact, clock)
    watch.add(decided()[0])
    assert not gauges.values
    clock.now_s = live.EVERY_S
    watch.add(decided()[1])
    assert gauges.values[named.ROWS, None] == 2
    assert (named.PSI, "chars") not in gauges.values  # two decisions are no histogram


def test_the_window_forgets(artifact: Artifact) -> None:
    watch, gauges = watched(artifact)
    strange = replace(decided()[0], ood=1.0)
    for _ in range(live.PANE_ROWS):
        watch.add(strange)
    for number in range(live.PANES * live.PANE_ROWS):
        watch.add(decided()[number % len(decided())])
    watch.tell()
    assert gauges.values[named.ROWS, None] == live.PANES * live.PANE_ROWS
    assert gauges.values[named.PSI, "chars"] < 0.1


def test_feedback_counts_once_where_its_decision_is_remembered(artifact: Artifact) -> None:
    watch, gauges = watched(artifact)
    for decision in decided()[:40]:
        watch.add(replace(decision, **UNKNOWN))
    assert gauges.counts == {}
    for decision in decided()[:40]:
        watch.feedback(decision.decision_id, 0.0)
        watch.feedback(decision.decision_id, 1.0)
    watch.feedback("dec-of-another-replica", 1.0)
    watch.tell()
    assert gauges.counts == {named.LABELLED: 40}
    expected = sum(d.arms[ARM].p for d in decided()[:40]) / 40
    assert gauges.values[named.GAP, ARM] == pytest.approx(-expected)


def test_only_so_many_are_remembered(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "REMEMBERED", 3)
    watch, gauges = watched(artifact)
    for decision in decided()[:5]:
        watch.add(replace(decision, **UNKNOWN))
    for decision in decided()[:5]:
        watch.feedback(decision.decision_id, 1.0)
    assert gauges.counts == {named.LABELLED: 3}


def test_another_classifiers_decisions_tell_nothing_until_it_is_followed(artifact: Artifact) -> None:
    watch, gauges = watched(artifact)
    for decision in decided()[:60]:
        watch.add(decision)
    new = replace(artifact, version="0123456789ab")
    watch.add(replace(decided()[0], classifier_version=new.version))
    watch.tell()
    assert gauges.values[named.ROWS, None] == 60
    watch.follow(new)
    watch.add(decided()[0])
    watch.add(replace(decided()[0], classifier_version=new.version))
    watch.tell()
    assert gauges.values[named.ROWS, None] == 1


def test_a_classifier_without_a_reference_is_not_watched(artifact: Artifact) -> None:
    watch, gauges = watched(replace(artifact, weights=replace(artifact.weights, reference=None)))
    watch.add(decided()[0])
    watch.tell()
    assert (gauges.values, gauges.counts) == ({}, {})
