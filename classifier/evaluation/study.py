"""A whole evaluation: of an artifact as it is, or of what training finds on this table's own splits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from classifier.artifact import Artifact
from classifier.errors import ArmsDiffer, TooFewItems
from classifier.evaluate import arm_metrics
from classifier.evaluation.intervals import Interval, interval, weights
from classifier.evaluation.pair import Pair, pair, recovered
from classifier.evaluation.splits import ROUTER, Beliefs, HeldOut, hold_out, parts
from classifier.evaluation.standing import Field, compare
from classifier.predictor import Predictor
from classifier.tables import OutcomeTable

Matrix = NDArray[np.float64]
Subject = Literal["artifact", "recipe"]

ARTIFACT = "artifact"


@dataclass(frozen=True, slots=True)
class View:
    """One way of holding out. `metrics` are `evaluate.arm_metrics` by contender and arm.

    `pairs` by contender, and `curves` (share of calls, PGR), where two arms were named. `p` and `scores` of
    the contender that counts, on the rows of `held`.
    """

    field: Field | None
    metrics: Mapping[str, Mapping[str, Mapping[str, Any]]]
    pairs: Mapping[str, Mapping[str, Interval]]
    curves: Mapping[str, tuple[Matrix, Matrix]]
    p: Matrix
    scores: Matrix
    held: HeldOut


@dataclass(frozen=True, slots=True)
class Study:
    """`subject`: whose figures count: the artifact's on prompts it was not trained on, or, where the table is
    what it was trained on, those of training again on the splits. `notes` are sentences for the reader."""

    subject: Subject
    arms: tuple[str, ...]
    prompts: int
    families: int
    notes: tuple[str, ...]
    items: View
    other_families: View | None

    @property
    def contender(self) -> str:
        return ARTIFACT if self.subject == "artifact" else ROUTER


def steps(table: OutcomeTable, seed: int, rounds: int = 1) -> int:
    """How often `study` calls `done`."""
    return rounds * (len(parts(table, "items", seed)) + len(parts(table, "families", seed)))


def study(
    artifact: Artifact,
    table: OutcomeTable,
    seed: int = 0,
    named: tuple[str, str] | None = None,
    done: Callable[[], None] = lambda: None,
    rounds: int = 1,
) -> Study:
    """Evaluate on `table`; `named` are two arms of it, the small one first. Figures are means over `rounds`
    splits of the table, those of the two arms are the first's.

    The table must hold arms that the artifact knows, or ArmsDiffer; fewer than 40 prompts raise TooFewItems.
    Arms that the artifact does not know are left out and named in `notes`.
    """
    common = tuple(arm for arm in table.arms if arm in artifact.arms)
    if len(common) < 2:
        raise ArmsDiffer(
            f"the classifier knows {', '.join(artifact.arms)} and the table has {', '.join(table.arms)}: "
            "evaluating needs two arms that both have"
        )
    notes = []
    if len(common) < len(table.arms):
        lost = ", ".join(arm for arm in table.arms if arm not in common)
        notes.append(f"Left out, as the classifier does not know them: {lost}.")
        table = table.only_arms(common)
    table.check_enough()
    if artifact.weights.meaning is not None:
        notes.append("Training is repeated without the classifier's sentence embedding.")
    subject, note = _subject(artifact, table)
    items = hold_out(table, "items", seed, done, rounds)
    if items is None:
        raise TooFewItems("evaluating needs at least three different prompts; record more")
    families = hold_out(table, "families", seed, done, rounds)
    whole = _judged(artifact, table, items) if subject == "artifact" else items
    apart = families
    if families is not None and subject == "artifact":
        apart = _judged(artifact, table, families)
    router = ARTIFACT if subject == "artifact" else ROUTER
    return Study(
        subject=subject,
        arms=table.arms,
        prompts=len(table.items),
        families=len(table.families),
        notes=(note, *notes),
        items=_view(table, whole, seed, named, router),
        other_families=None if apart is None else _view(table, apart, seed, named, router),
    )


def _subject(artifact: Artifact, table: OutcomeTable) -> tuple[Subject, str]:
    """Whether the artifact has seen this table, by the hash of its file or of its prompts."""
    if table.sha256 and artifact.card.get("table_sha256") == table.sha256:
        return "recipe", (
            "This table is what the classifier was trained on: its figures here would be those of a memory. "
            "Shown instead: the same training repeated on parts of the table, measured on the rest."
        )
    seen = artifact.seen(table)
    if seen:
        return "recipe", (
            f"The classifier was trained on {seen:,} of these {len(table.items):,} prompts. Shown instead of "
            "its own figures: the same training repeated on parts of the table, measured on the rest."
        )
    if not artifact.weights.seen.size:
        return "artifact", (
            "The classifier does not tell which prompts it was trained on, and its table was another file: "
            "the figures are its own, and too good if the prompts are the same."
        )
    return "artifact", (
        "The classifier was not trained on any of these prompts: `artifact` is the classifier as it is; "
        "`router` is its training repeated on this table's parts, as the baselines are."
    )


def _judged(artifact: Artifact, table: OutcomeTable, held: HeldOut) -> HeldOut:
    predictor = Predictor(artifact)
    told = [predictor.predict(table.items[int(i)].messages) for i in held.at]
    own = Beliefs(
        np.array([[t.p[arm] for arm in table.arms] for t in told]),
        np.array([[t.tokens[arm] for arm in table.arms] for t in told]),
    )
    return HeldOut(held.by, held.at, held.fold, held.round, {ARTIFACT: own, **held.beliefs})


def _view(table: OutcomeTable, held: HeldOut, seed: int, named: tuple[str, str] | None, router: str) -> View:
    scores, tokens = table.scores[held.at], table.tokens[held.at]
    base = np.tile(np.nanmean(table.scores, axis=0), (len(scores), 1))
    rounds = [held.round == number for number in np.unique(held.round)]
    pairs: dict[str, Mapping[str, Interval]] = {}
    curves: dict[str, tuple[Matrix, Matrix]] = {}
    if named is not None:
        small, large = (table.arms.index(arm) for arm in named)
        both = ~np.isnan(scores[:, [small, large]]).any(axis=1) & (held.round == 0)
        s = scores[both]
        for name, told in held.beliefs.items():
            worth = told.p[both, large] - told.p[both, small]
            pairs[name] = _pair(worth, s[:, small], s[:, large], seed)
            curve = recovered(worth, s[:, small], s[:, large])
            if curve is not None:
                curves[name] = curve
    return View(
        field=compare(table.arms, held.beliefs, scores, tokens, seed, router, prompts=held.at),
        metrics={
            name: _mean([arm_metrics(table.arms, b.p[r], scores[r], base[r]) for r in rounds])
            for name, b in held.beliefs.items()
        },
        pairs=pairs,
        curves=curves,
        p=held.beliefs[router].p,
        scores=scores,
        held=held,
    )


def _mean(rounds: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Figures by arm as means over rounds; None where a round has none. Counts stay whole."""

    def mean(values: list[Any]) -> Any:
        if None in values:
            return None
        return values[0] if len(set(values)) == 1 else float(np.mean(values))

    return {
        arm: {name: mean([told[arm][name] for told in rounds]) for name in figures}
        for arm, figures in rounds[0].items()
    }


def _pair(worth: Matrix, small: Matrix, large: Matrix, seed: int) -> dict[str, Interval]:
    drawn = weights(len(worth), seed)
    counts = np.rint(drawn * len(worth)).astype(np.intp)
    whole = pair(worth, small, large)
    told: list[Pair] = []
    for row in counts:
        at = np.repeat(np.arange(len(worth)), row)
        told.append(pair(worth[at], small[at], large[at]))

    def found(name: str) -> Interval:
        values = [getattr(p, name) for p in told]
        return interval(getattr(whole, name), np.array([np.nan if v is None else v for v in values]))

    return {name: found(name) for name in ("apgr", "cpt50", "cpt80")}
