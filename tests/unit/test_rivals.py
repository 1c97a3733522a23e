"""A new classifier is called better only where it is, on prompts that neither has seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from classifier.artifact import Artifact, load
from classifier.errors import ArmsDiffer, ArtifactIncompatible, TooFewItems
from classifier.evaluation.intervals import Interval
from classifier.evaluation.rivals import Figure, Rivalry, rivalry, steps
from classifier.predictor import Predictor
from classifier.tables import OutcomeTable
from tests.artifacts import fitted
from tests.outcomes import TRUTH, sums

# what is easy is hard, and the other way about
TURNED = {arm: (p[2], p[1], p[0]) for arm, p in TRUTH.items()}
GOOD, ALIKE, BAD = sums(400, seed=1), sums(400, seed=2), sums(400, seed=3, truth=TURNED)


def _texts(table: OutcomeTable) -> set[str]:
    return {item.messages[0]["content"] for item in table.items}


def _new(count: int) -> OutcomeTable:
    """Prompts of none of the three tables: sums of small numbers come up again and again."""
    drawn, seen = sums(3 * count, seed=9), _texts(GOOD) | _texts(ALIKE) | _texts(BAD)
    fresh = [i for i, item in enumerate(drawn.items) if item.messages[0]["content"] not in seen]
    return drawn.subset(fresh[:count])


NEW = _new(300)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rivals")


def of(root: Path, name: str, table: OutcomeTable) -> Artifact:
    fitted(root / name, table)
    return load(root / name)


@pytest.fixture(scope="module")
def good(root: Path) -> Artifact:
    return of(root, "good", GOOD)


@pytest.fixture(scope="module")
def alike(root: Path) -> Artifact:
    return of(root, "alike", ALIKE)


@pytest.fixture(scope="module")
def bad(root: Path) -> Artifact:
    return of(root, "bad", BAD)


def test_the_better_one_beats_the_worse_and_not_the_other_way_about(good: Artifact, bad: Artifact) -> None:
    found, back = rivalry(good, bad, NEW), rivalry(bad, good, NEW)
    assert found.better
    assert found.verdict == "it beats the live one"
    assert (found.prompts, found.seen, found.arms) == (300, 0, NEW.arms)
    assert not back.better
    assert "it is worse than the live one (Brier score, log loss" in back.verdict
    for there, here in zip(found.figures, back.figures, strict=True):
        assert there.gain.value == pytest.approx(-here.gain.value)  # type: ignore[operator]
        assert there.candidate == here.live


def test_one_that_is_the_same_stays_out(good: Artifact, alike: Artifact) -> None:
    same = rivalry(good, good, NEW)
    assert all(each.gain == Interval(0.0, 0.0, 0.0) for each in same.figures)
    assert not same.better
    assert "does not beat the live one beyond chance" in same.verdict
    assert not (rivalry(alike, good, NEW).better and rivalry(good, alike, NEW).better)


def test_the_figures_are_those_of_the_predictions(good: Artifact, bad: Artifact) -> None:
    found = rivalry(good, bad, NEW)
    told = [Predictor(good).predict(item.messages).p for item in NEW.items]
    p = np.array([[each[arm] for arm in NEW.arms] for each in told])
    assert found.brier.candidate == pytest.approx(((p - NEW.scores) ** 2).mean())
    chance = np.where(NEW.scores > 0.5, p, 1.0 - p)
    assert found.log_loss.candidate == pytest.approx(-np.log(chance).mean())
    assert found.area is not None
    assert NEW.scores.mean(axis=0).min() < found.area.candidate < 1.0


def test_prompts_that_either_has_seen_are_left_out(good: Artifact, alike: Artifact) -> None:
    old = GOOD
    table = replace(
        NEW,
        items=(*NEW.items, *(replace(item, prompt_id=f"o{i}") for i, item in enumerate(old.items[:50]))),
        scores=np.concatenate([NEW.scores, old.scores[:50]]),
        tokens=np.concatenate([NEW.tokens, old.tokens[:50]]),
        facts=np.concatenate([NEW.facts, old.facts[:50]]),
    )
    for mine, live in ((good, alike), (alike, good)):
        found = rivalry(mine, live, table)
        assert (found.prompts, found.seen) == (300, 50)
        assert found.brier == rivalry(mine, live, NEW).brier


def test_nothing_new_to_both_is_one_sentence(good: Artifact, alike: Artifact) -> None:
    for table in (GOOD, ALIKE):
        with pytest.raises(TooFewItems, match=r"of the table's 400 prompts are new to both.*--hold-out"):
            rivalry(good, alike, table)


def test_one_that_does_not_tell_what_it_saw(good: Artifact, alike: Artifact) -> None:
    blank = replace(alike, weights=replace(alike.weights, seen=np.empty(0, dtype=np.int64)))
    for pair, name in (((blank, good), "candidate"), ((good, blank), "live")):
        with pytest.raises(ArtifactIncompatible, match=f"the {name} classifier .*train it again"):
            rivalry(*pair, NEW)


def test_arms_that_are_not_common_to_all(good: Artifact, alike: Artifact) -> None:
    assert rivalry(good, alike, NEW, arms=("direct", "cot", "x")).arms == ("cot", "direct")
    with pytest.raises(ArmsDiffer, match="two arms that both know"):
        rivalry(good, alike, NEW, arms=("direct", "x"))
    with pytest.raises(ArmsDiffer, match="the table has direct"):
        rivalry(good, alike, NEW.only_arms(["direct"]))


def test_cells_that_were_not_recorded_do_not_count(good: Artifact, bad: Artifact) -> None:
    scores = NEW.scores.copy()
    scores[:, 0] = np.nan
    scores[10:, 1] = np.nan
    found = rivalry(good, bad, replace(NEW, scores=scores))
    assert found.area is None
    assert found.brier.gain.low is not None
    told = [Predictor(good).predict(item.messages).p for item in NEW.items]
    means = []
    for column in (1, 2):
        known = ~np.isnan(scores[:, column])
        p = np.array([each[NEW.arms[column]] for each in told])[known]
        means.append(((p - scores[known, column]) ** 2).mean())
    assert found.brier.candidate == pytest.approx(np.mean(means))


def test_progress_is_told(good: Artifact, bad: Artifact) -> None:
    done: list[None] = []
    rivalry(good, bad, NEW, done=lambda: done.append(None))
    assert len(done) == steps(NEW)


def figure(low: float, high: float) -> Figure:
    return Figure("x", 0.0, 0.0, Interval((low + high) / 2, low, high))


@pytest.mark.parametrize(
    ("brier", "nats", "area", "better"),
    [
        ((0.01, 0.02), (-0.01, 0.02), (-0.01, 0.02), True),
        ((0.01, 0.02), (-0.02, -0.01), (-0.01, 0.02), False),
        ((0.01, 0.02), (-0.01, 0.02), (-0.02, -0.01), False),
        ((0.0, 0.02), (0.01, 0.02), (0.01, 0.02), False),
        ((0.01, 0.02), (0.0, 0.01), None, True),
    ],
)
def test_what_counts_as_better(
    brier: tuple[float, float],
    nats: tuple[float, float],
    area: tuple[float, float] | None,
    better: bool,
) -> None:
    found = Rivalry(99, 0, ("a", "b"), figure(*brier), figure(*nats), figure(*area) if area else None)
    assert found.better is better


def test_held_out_prompts_are_the_same_in_every_table_and_grow_with_the_share() -> None:
    table = sums(1000, seed=4)
    kept, held = table.hold_back(0.2)
    assert len(kept.items) + len(held.items) == 1000
    assert 140 < len(held.items) < 260
    turned = table.subset(range(999, -1, -1))
    assert _texts(turned.hold_back(0.2)[1]) == _texts(held)
    assert _texts(table.subset(range(500)).hold_back(0.2)[1]) <= _texts(held)
    assert _texts(held) <= _texts(table.hold_back(0.5)[1])
    assert not _texts(kept) & _texts(held)
    assert table.hold_back(0.0)[0].items == table.items
