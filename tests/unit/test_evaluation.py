"""The evaluation on tables whose truth is known by hand, and through its command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from classifier.artifact import Artifact, load
from classifier.errors import ArmsDiffer, TooFewItems
from classifier.evaluation.baselines import knn_and_tfidf
from classifier.evaluation.curves import Curve, fixed, mix_hull, route
from classifier.evaluation.intervals import interval, weights
from classifier.evaluation.pair import pair, recovered
from classifier.evaluation.robustness import CHANGES, LATER, THANKED, robustness
from classifier.evaluation.splits import KNN, ROUTER, TFIDF, Beliefs, hold_out, parts
from classifier.evaluation.standing import MIX, ORACLE, compare
from classifier.evaluation.study import ARTIFACT, steps, study
from classifier.tables import OutcomeTable, parse_table
from classifier.train import train
from router.cli.main import app
from tests.outcomes import row, sums

CROSSED = {"cheap": (0.9, 0.1, 0.1), "dear": (0.9, 0.85, 0.1)}


@pytest.fixture(scope="module")
def table() -> OutcomeTable:
    return sums(240, truth=CROSSED, families=4)


@pytest.fixture(scope="module")
def where(table: OutcomeTable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(table, tmp_path_factory.mktemp("m") / "model", seed=0, date="2020-01-01").artifact


@pytest.fixture(scope="module")
def artifact(where: Path) -> Artifact:
    return load(where)


def written(path: Path, table: OutcomeTable) -> Path:
    lines = [
        row(
            i.prompt_id,
            i.messages[0]["content"],
            arm,
            table.scores[r, a],
            table.tokens[r, a],
            family=i.family,
        )
        for r, i in enumerate(table.items)
        for a, arm in enumerate(table.arms)
    ]
    path.write_text("\n".join(lines))
    return path


# -- two arms as RouteLLM has them


def test_a_perfect_router_by_hand() -> None:
    # the large arm helps on two of four prompts, and hurts on none
    small, large = np.array([1.0, 0.0, 0.0, 0.0]), np.array([1.0, 1.0, 1.0, 0.0])
    told = pair(np.array([0.1, 0.9, 0.8, 0.2]), small, large)
    # PGR is 0, 1/2, 1, 1, 1 at 0, 1/4 ... 1 of the calls
    assert told.apgr == pytest.approx((0.25 + 0.75 + 1.0 + 1.0) / 4)
    assert told.cpt50 == pytest.approx(0.25)
    assert told.cpt80 == pytest.approx(0.4)


def test_one_that_knows_nothing_is_a_straight_line() -> None:
    told = pair(np.full(10, 0.3), np.zeros(10), np.ones(10))
    assert (told.apgr, told.cpt50, told.cpt80) == pytest.approx((0.5, 0.5, 0.8))


def test_a_large_arm_that_is_not_better_has_no_gap() -> None:
    assert recovered(np.zeros(3), np.ones(3), np.ones(3)) is None
    assert pair(np.zeros(3), np.ones(3), np.zeros(3)).apgr is None


# -- curves


def test_the_hull_leaves_out_what_a_mix_beats() -> None:
    accuracy, cost = np.array([0.2, 0.3, 0.6, 0.5]), np.array([1.0, 5.0, 9.0, 20.0])
    assert mix_hull(accuracy, cost) == [0, 2]


def test_areas_and_crossings_by_hand() -> None:
    curve = Curve.of(np.array([0.8, 0.2]), np.array([30.0, 10.0]))
    assert curve.at(20.0) == pytest.approx(0.5)
    assert curve.area(10.0, 30.0) == pytest.approx(0.5)
    assert curve.area(10.0, 50.0) == pytest.approx(0.65)
    assert curve.tokens_for(0.65) == pytest.approx(25.0)
    assert curve.tokens_for(0.81) is None
    assert curve.tokens_for(0.1) == 10.0


def test_prices_lead_from_the_cheapest_to_the_best() -> None:
    rng = np.random.default_rng(0)
    p, tokens = rng.random((50, 3)), np.tile([1.0, 10.0, 100.0], (50, 1))
    path = route(p, tokens, p, tokens)
    assert (path.spent[:, 0] == 1.0).all()
    np.testing.assert_allclose(path.got[:, -1], p.max(axis=1))
    assert (np.diff(path.spent.mean(axis=0)) >= 0).all()


def test_beliefs_without_signal_are_random_mixing() -> None:
    rng = np.random.default_rng(1)
    scores = (rng.random((200, 3)) < [0.2, 0.5, 0.6]).astype(float)
    tokens = np.tile([1.0, 10.0, 100.0], (200, 1))
    flat = np.tile(scores.mean(axis=0), (200, 1))
    mixed, routed = fixed(scores, tokens), route(flat, tokens, scores, tokens)
    areas = [Curve.of(x.got.mean(axis=0), x.spent.mean(axis=0)).area(1.0, 100.0) for x in (mixed, routed)]
    assert areas[0] == pytest.approx(areas[1])


def test_standings_of_a_router_that_knows_everything() -> None:
    rng = np.random.default_rng(2)
    scores = (rng.random((300, 2)) < [0.3, 0.7]).astype(float)
    tokens = np.tile([10.0, 100.0], (300, 1))
    beliefs = {"wise": Beliefs(scores, tokens), "flat": Beliefs(np.full((300, 2), 0.5), tokens)}
    field = compare(("a", "b"), beliefs, scores, tokens, 0, "wise")
    assert field is not None
    found = {s.name: s for s in field.standings}
    assert field.best == "b"
    assert found["wise"].gap_closed.value == pytest.approx(1.0)
    assert found[ORACLE].gap_at_best.value == pytest.approx(1.0)
    assert (found["wise"].tokens_at_best.value or 1.0) < 0.7
    assert found["flat"].tokens_at_best.value is None
    assert found[MIX].gain.value == 0.0
    ahead = field.ahead["flat"]
    assert ahead.low is not None
    assert ahead.low > 0.0
    assert [p.name for p in field.points][:2] == ["a (all-cheap)", "b (all-dear, all-best)"]


def test_a_prompt_that_is_predicted_twice_counts_once() -> None:
    rng = np.random.default_rng(3)
    scores = (rng.random((80, 2)) < [0.3, 0.6]).astype(float)
    tokens, p = np.tile([10.0, 100.0], (80, 1)), rng.random((80, 2))
    arms, twice = ("a", "b"), np.tile(np.arange(80), 2)
    once = compare(arms, {"x": Beliefs(p, tokens)}, scores, tokens, 0, "x")
    again = compare(
        arms, {"x": Beliefs(p, tokens).at(twice)}, scores[twice], tokens[twice], 0, "x", prompts=twice
    )
    assert once is not None
    assert again is not None
    assert again.prompts == 80
    for one, two in zip(once.standings, again.standings, strict=True):
        assert (two.area.value, two.area.low, two.area.high) == pytest.approx(
            (one.area.value, one.area.low, one.area.high)
        )
    assert [p.accuracy.low for p in again.points] == pytest.approx([p.accuracy.low for p in once.points])


def test_what_was_carried_out_stands_beside_what_was_believed() -> None:
    scores, tokens = np.array([[0.0, 1.0], [1.0, 1.0]] * 5), np.tile([10.0, 100.0], (10, 1))
    wise = route(scores, tokens, scores, tokens)
    field = compare(("a", "b"), {}, scores, tokens, 0, "service", carried={"service": wise})
    assert field is not None
    found = {s.name: s for s in field.standings}
    assert found["service"].gap_closed.value == pytest.approx(1.0)
    assert set(field.ahead) == {MIX}


def test_prompts_that_lack_an_arm_are_not_compared() -> None:
    scores = np.array([[1.0, np.nan], [0.0, 1.0]])
    assert compare(("a", "b"), {"x": Beliefs(scores, scores)}, scores, scores, 0, "x") is None


def test_intervals_cover_and_say_when_they_cannot() -> None:
    drawn = weights(50, 0)
    np.testing.assert_allclose(drawn.sum(axis=1), 1.0)
    found = interval(0.5, np.linspace(0.0, 1.0, 1001))
    assert (found.low, found.high) == pytest.approx((0.025, 0.975))
    assert interval(0.5, np.array([np.nan, 0.5])).low is None
    assert interval(None, np.ones(3)).value is None


# -- splits and baselines


def test_copies_stay_together_and_families_are_whole(table: OutcomeTable) -> None:
    groups = table.content_groups()
    for kept, out in parts(table, "items", 0):
        assert not set(groups[kept]) & set(groups[out])
    names = np.array([item.family for item in table.items])
    for kept, out in parts(table, "families", 0):
        assert not set(names[kept]) & set(names[out])
    assert parts(sums(60), "families", 0) == []


def test_every_contender_sees_the_same_and_learns(table: OutcomeTable) -> None:
    ticks: list[None] = []
    held = hold_out(table, "items", 0, lambda: ticks.append(None))
    assert held is not None
    assert len(ticks) == 5
    assert sorted(held.at) == list(range(240))
    scores = table.scores[held.at]
    base = np.mean((scores.mean(axis=0) - scores) ** 2)
    assert np.mean((held.beliefs[ROUTER].p - scores) ** 2) < 0.8 * base
    # to words alone every number is another one
    for name in (KNN, TFIDF):
        assert held.beliefs[name].p.shape == held.beliefs[name].tokens.shape == (240, 2)
        assert np.mean((held.beliefs[name].p - scores) ** 2) < 1.2 * base


def test_rounds_are_other_splits_of_the_same_prompts(artifact: Artifact, table: OutcomeTable) -> None:
    ticks: list[None] = []
    found = study(artifact, table, seed=4, done=lambda: ticks.append(None), rounds=2)
    assert len(ticks) == steps(table, 4, 2)
    held = found.items.held
    assert np.bincount(held.at).tolist() == [2] * 240
    first, second = (held.at[held.round == number] for number in (0, 1))
    assert sorted(first) == sorted(second) == list(range(240))
    assert first.tolist() != second.tolist()
    assert not set(held.fold[held.round == 0]) & set(held.fold[held.round == 1])
    alone = study(artifact, table, seed=4).items
    other = study(artifact, table, seed=5).items
    eces = [view.metrics[ROUTER]["dear"]["ece"] for view in (alone, other, found.items)]
    assert eces[2] == pytest.approx((eces[0] + eces[1]) / 2)
    assert found.items.metrics[ROUTER]["dear"]["items"] == 240


def test_baselines_live_with_gaps_soft_scores_and_no_words() -> None:
    rng = np.random.default_rng(0)
    scores, tokens = rng.random((60, 2)), np.full((60, 2), 9.0)
    scores[:50, 1] = np.nan
    for text in ("word {}", "!?"):
        said = [text.format(i) for i in range(60)]
        for p, spent in knn_and_tfidf(said, scores, tokens, said[:7]):
            assert p.shape == (7, 2)
            assert ((p >= 0) & (p <= 1)).all()
            np.testing.assert_allclose(spent, 9.0)


# -- studies


def test_a_table_that_it_was_trained_on_is_never_judged_from_memory(
    artifact: Artifact, table: OutcomeTable
) -> None:
    found = study(artifact, table, named=("cheap", "dear"))
    assert found.subject == "recipe"
    assert "trained on" in found.notes[0]
    assert ARTIFACT not in found.items.metrics
    assert (found.items.pairs[ROUTER]["apgr"].value or 0.0) > 0.6


def test_neither_is_a_copy_in_another_file(artifact: Artifact, table: OutcomeTable) -> None:
    part = parse_table(
        [
            row(f"other{r}", i.messages[0]["content"], arm, table.scores[r, a])
            for r, i in enumerate(table.items[:80])
            for a, arm in enumerate(table.arms)
        ],
        sha256="1" * 64,
    )
    found = study(artifact, part)
    assert found.subject == "recipe"
    assert "80 of these 80" in found.notes[0]


def test_other_prompts_judge_the_artifact_itself(artifact: Artifact) -> None:
    fresh = parse_table(
        [
            row(f"n{r}", f"{i.messages[0]['content']} ({r})", arm, t.scores[r, a], t.tokens[r, a])
            for t in (sums(120, seed=9, truth=CROSSED),)
            for r, i in enumerate(t.items)
            for a, arm in enumerate(t.arms)
        ],
        sha256="2" * 64,
    )
    found = study(artifact, fresh)
    assert found.subject == "artifact"
    assert found.other_families is None
    assert found.items.metrics[ARTIFACT]["dear"]["auc"] > 0.7


def test_a_table_of_other_arms_is_refused(artifact: Artifact) -> None:
    with pytest.raises(ArmsDiffer, match="two arms that both have"):
        study(artifact, sums(60))
    with pytest.raises(TooFewItems):
        study(artifact, sums(30, truth=CROSSED))


def test_harmless_changes_rarely_move_the_arm(artifact: Artifact, table: OutcomeTable) -> None:
    found = robustness(artifact, table)
    assert set(found) == {*CHANGES, *LATER, THANKED}
    assert found["whitespace"] <= 0.02
    assert all(0.0 <= share <= 1.0 for share in found.values())
    assert CHANGES["reordered context"]("One. Two. Three?") == "Two. One. Three?"


def test_the_command_prints_json_and_writes_a_page(where: Path, table: OutcomeTable, tmp_path: Path) -> None:
    path, out = written(tmp_path / "t.jsonl", table), tmp_path / "out"
    asked = ["evaluate", str(where), str(path), "--arms", "cheap,dear", "--json", "--out", str(out)]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert 0.5 < told["apgr"] <= 1.0
    assert 0.0 < told["cpt50"] < told["cpt80"] < 1.0
    assert told["held_out_families"]["contenders"][ROUTER]["area"]["low"] is not None
    assert told == json.loads((out / "evaluation.json").read_text())
    for plot in ("frontier", "calls", "reliability"):
        assert (out / f"evaluation-{plot}.png").read_bytes()[:4] == b"\x89PNG"
        assert f"evaluation-{plot}.png" in (out / "evaluation.md").read_text()


@pytest.mark.parametrize("arms", ["cheap", "cheap,cheap", "cheap,none", "a,b,c"])
def test_wrong_arms_are_one_sentence(where: Path, table: OutcomeTable, tmp_path: Path, arms: str) -> None:
    path = written(tmp_path / "t.jsonl", table)
    result = CliRunner().invoke(app, ["evaluate", str(where), str(path), "--arms", arms])
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
