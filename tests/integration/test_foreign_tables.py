"""Tables from elsewhere, through the commands: learnt from nearly as well as knowing the truth allows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from classifier.calibration import brier
from classifier.evaluation.pair import pair
from classifier.predictor import Predictor
from router.cli.main import app
from tests.foreign import NAMES, Foreign, foreign

pytestmark = pytest.mark.integration

PROMPTS, NEW = 600, 800


def run(*args: str | Path) -> str:
    done = CliRunner().invoke(app, [str(arg) for arg in args])
    assert done.exit_code == 0, done.output
    return done.stdout


def beliefs(folder: Path, table: Foreign) -> np.ndarray:
    predictor = Predictor.load(folder)
    told = [predictor.predict(messages) for messages in table.conversations()]
    return np.array([[each.p[arm] for arm in table.arms] for each in told])


@pytest.mark.parametrize("arms", [2, 11])
def test_it_is_nearly_as_good_as_the_truth(arms: int, tmp_path: Path) -> None:
    learnt, new = foreign(PROMPTS, arms), foreign(NEW, arms, seed=7)
    said = run("train", learnt.write(tmp_path / "table.jsonl"), "--out", tmp_path / "art")
    assert f"{PROMPTS * arms:,} rows" in said
    p = beliefs(tmp_path / "art", new)
    rates = np.tile(learnt.scores.mean(axis=0), (NEW, 1))
    mine, best, base = (brier(q.ravel(), new.scores.ravel()) for q in (p, new.means, rates))
    assert mine - best < 0.3 * (base - best)
    fixed = new.means[:, learnt.scores.mean(axis=0).argmax()].mean()
    assert new.regret(p) < 0.02
    assert new.means.max(axis=1).mean() - new.regret(p) >= fixed - 0.005


def test_two_arms_are_judged_by_what_the_large_one_recovers(tmp_path: Path) -> None:
    learnt, new = foreign(PROMPTS, 3), foreign(PROMPTS, 3, seed=7)
    run("train", learnt.write(tmp_path / "table.jsonl"), "--out", tmp_path / "art")
    small, large = NAMES[:2]
    table = new.write(tmp_path / "new.jsonl")
    figures = json.loads(run("evaluate", tmp_path / "art", table, "--arms", f"{small},{large}", "--json"))
    worth = new.means[:, 1] - new.means[:, 0]
    truth = pair(worth, new.scores[:, 0], new.scores[:, 1])
    assert truth.apgr is not None
    assert truth.cpt50 is not None
    assert truth.cpt80 is not None
    # what chance has: 0.5, 0.5 and 0.8 of the calls
    assert 0.7 < (figures["apgr"] - 0.5) / (truth.apgr - 0.5) < 1.1
    assert 0.7 < (0.5 - figures["cpt50"]) / (0.5 - truth.cpt50) < 1.1
    assert 0.6 < (0.8 - figures["cpt80"]) / (0.8 - truth.cpt80) < 1.1


def test_arms_can_be_left_out_of_training(tmp_path: Path) -> None:
    table = foreign(300, 4).write(tmp_path / "table.jsonl")
    run("train", table, "--out", tmp_path / "art", "--arms", f"{NAMES[0]},{NAMES[2]}")
    assert set(Predictor.load(tmp_path / "art").arms) == {NAMES[0], NAMES[2]}
