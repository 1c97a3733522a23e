"""The coverage benchmark: what it counts, and that its simulated service is one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer import Exit

from benchmarks.replay import __main__ as page
from benchmarks.replay.coverage import Cell, Trial, targets
from benchmarks.replay.world import TABLE, TENANT, World, changed, live_policy
from classifier.predictor import Prediction
from router.decisions.digests import spec_digest
from router.replay.log import replay_log
from router.replay.recording import read_recording
from router.replay.study import study_log

pytestmark = pytest.mark.unit


def cell(measure: str, estimator: str, covered: float, target: str = "dearer") -> Cell:
    return Cell(target, measure, estimator, 2.0, covered, 0.1, 0.5, 200, 1.0)


FOUND = [cell(m, e, 0.9, t) for t in ("dearer", "cheaper") for m in page.MEASURES for e in page.ESTIMATORS]


def test_the_page_says_what_was_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "run", lambda *_: iter(()))
    monkeypatch.setattr(page, "cells", lambda *_: FOUND)
    page.main(logs=200, workers=2, out=tmp_path)
    text = (tmp_path / "replay-coverage.md").read_text()
    assert "| accuracy | 90.0% | 90.0% | 90.0% |" in text
    assert "| dearer | tokens | DR | 90.0% | 2 | +5.0% | 25.0% | 100% |" in text
    assert (tmp_path / "replay-coverage.png").stat().st_size > 5_000


def test_too_little_coverage_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    low = [replace(c, covered=0.7) if c.estimator == "dr" else c for c in FOUND]
    monkeypatch.setattr(page, "run", lambda *_: iter(()))
    monkeypatch.setattr(page, "cells", lambda *_: low)
    with pytest.raises(Exit) as ended:
        page.main(logs=200, workers=2, out=tmp_path)
    assert ended.value.exit_code == 1


@pytest.fixture(scope="module")
def world() -> World:
    """The recorded table under predictions that know nothing but the arm's mean."""
    live = live_policy(0.2)
    recorded = read_recording(TABLE, live)
    table = recorded.table
    told = Prediction(
        p=dict(zip(table.arms, np.nanmean(table.scores, axis=0).tolist(), strict=True)),
        tokens=dict(zip(table.arms, np.nanmean(table.tokens, axis=0).tolist(), strict=True)),
        tokens_high=dict(zip(table.arms, (2 * np.nanmean(table.tokens, axis=0)).tolist(), strict=True)),
        difficulty=0.5,
        ood=0.0,
        version="means",
    )
    return World(recorded, (told,) * len(table.items), live)


def test_the_simulated_log_explores_as_its_policy_says(world: World) -> None:
    log = world.log(600, seed=0, feedback=0.5)
    assert np.mean([d.explored for d in log]) == pytest.approx(0.2, abs=0.05)
    assert np.mean([d.score is not None for d in log]) == pytest.approx(0.5, abs=0.07)
    for decision in log:
        assert sum(decision.starts.values()) == pytest.approx(1.0)
        assert decision.plan[0] == decision.rungs[0].arm
        assert decision.rungs[0].spec == spec_digest(world.live.arms[decision.plan[0]])
        assert decision.tokens == sum(rung.tokens for rung in decision.rungs)
    drawn = {d.plan[0] for d in log if d.explored}
    assert drawn == set(log[0].starts)


def test_replaying_the_live_policy_finds_its_own_mean(world: World) -> None:
    log = world.log(600, seed=1, feedback=1.0)
    study = study_log(replay_log(lambda: log, world.live), resamples=100)
    assert study.supported
    assert study.weights.mended == 0.0
    assert study.figures["tokens"].ips.value == pytest.approx(np.mean([d.tokens for d in log]))


def test_the_truth_differs_between_the_policies(world: World) -> None:
    truths = [world.truth(policy)["tokens"] for policy in targets(world.live).values()]
    assert max(truths) > 1.2 * min(truths)
    sure = changed(world.live, exploration={"rate": 0.0})
    assert sure.tenants[TENANT].exploration.rate == 0.0
    assert sure.version != world.live.version
    assert Trial("t", True, 1.0, 0.0, {}).supported
