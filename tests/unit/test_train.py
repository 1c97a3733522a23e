from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from classifier.artifact import CARD, WEIGHTS, load
from classifier.errors import ArtifactError, MissingArms, OneClassOnly, TooFewItems
from classifier.predictor import Predictor
from classifier.tables import MIN_ITEMS, OutcomeTable, parse_table
from classifier.train import TrainReport, train
from tests.outcomes import row, sums

# The arm that is best depends on the digits, so that there is something to route by.
CROSSED = {"cheap": (0.9, 0.1, 0.1), "dear": (0.9, 0.85, 0.1)}


@pytest.fixture(scope="module")
def table() -> OutcomeTable:
    return sums(330, truth=CROSSED, families=4)


@pytest.fixture(scope="module")
def report(table: OutcomeTable, tmp_path_factory: pytest.TempPathFactory) -> TrainReport:
    return train(table, tmp_path_factory.mktemp("train") / "model", seed=3, date="2020-02-02")


def test_counts_and_rates(report: TrainReport, table: OutcomeTable) -> None:
    assert (report.rows, report.items, report.arms) == (660, 330, ("cheap", "dear"))
    assert report.families == ("f0", "f1", "f2", "f3")
    assert report.base_rates["dear"] == pytest.approx(np.mean(table.scores[:, 1]))


def test_every_prompt_is_held_out_once_where_there_are_few(report: TrainReport) -> None:
    assert report.held_out_items["cheap"]["items"] == 330
    assert report.held_out_families is not None
    assert report.held_out_families["cheap"]["items"] == 330


def test_held_out_figures_beat_the_base_rate(report: TrainReport) -> None:
    for figures in (*report.held_out_items.values(), *(report.held_out_families or {}).values()):
        assert figures["brier"] < 0.75 * figures["brier_base"]
        assert figures["auc"] > 0.8
        assert figures["ece"] < figures["ece_floor"] + 0.06


def test_routing_beats_mixing_where_arms_differ(report: TrainReport) -> None:
    routed = [r for r in report.frontier if r.name.startswith("router, ") and "%" in r.name]
    assert max(r.accuracy - r.mix_accuracy for r in routed) > 0.05
    oracle = report.frontier[-1]
    assert oracle.name == "oracle"
    assert all(r.accuracy <= oracle.accuracy for r in report.frontier)


def test_the_artifact_holds_the_final_model(report: TrainReport) -> None:
    predictor = Predictor.load(report.artifact)
    assert predictor.version == report.version
    two = predictor.predict([{"role": "user", "content": "What is 44 + 77?"}])
    assert two.p["dear"] == pytest.approx(0.85, abs=0.15)
    assert two.p["cheap"] == pytest.approx(0.1, abs=0.12)


def test_the_card_tells_where_it_comes_from(report: TrainReport, table: OutcomeTable) -> None:
    card = json.loads((report.artifact / CARD).read_text())
    assert card["date"] == "2020-02-02"
    assert card["seed"] == 3
    assert card["table_sha256"] == table.sha256
    assert card["counts"] == {"rows": 660, "items": 330, "families": 4}
    assert card["metrics"]["held_out_items"] == report.held_out_items
    assert card["metrics"]["frontier"][0]["name"] == report.frontier[0].name
    assert set(card["libraries"]) == {"python", "numpy", "scikit-learn"}
    assert "What is" not in json.dumps(card)


def test_the_same_table_and_seed_give_the_same_bytes(tmp_path: Path) -> None:
    small = sums(60)
    one, two = (train(small, tmp_path / name, seed=1, date="2020-01-01") for name in ("one", "two"))
    assert one.version == two.version
    assert (one.artifact / WEIGHTS).read_bytes() == (two.artifact / WEIGHTS).read_bytes()


def test_a_strangers_table_with_gaps_and_one_family(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = [
        row(f"q{i}", f"Frage {i}: was ist {i} mal {i}?", arm, float(rng.random() < p), t)
        for i in range(90)
        for arm, p, t in (("klein ✓", 0.3, 100.0), ("groß", 0.6, 290_000.0))
        if (i % 3 or arm != "groß")
    ]
    report = train(parse_table(lines), tmp_path / "m", seed=0, date="2020-01-01")
    assert report.held_out_families is None
    assert report.held_out_items["groß"]["items"] == 60
    assert load(tmp_path / "m").arms == ("groß", "klein ✓")


def test_tables_that_cannot_be_learnt_from_leave_nothing_behind(tmp_path: Path) -> None:
    one_class = parse_table([row(f"q{i}", f"{i}?", a, float(a == "b")) for i in range(60) for a in "ab"])
    for bad, error in (
        (sums(MIN_ITEMS - 3), TooFewItems),
        (sums(60, truth={"only": (0.5, 0.5, 0.5)}), MissingArms),
        (one_class, OneClassOnly),
    ):
        with pytest.raises(error):
            train(bad, tmp_path / "m", seed=0, date="2020-01-01")
    assert not (tmp_path / "m").exists()


def test_a_place_that_is_taken(tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="other files"):
        train(sums(45), tmp_path, seed=0, date="2020-01-01")
