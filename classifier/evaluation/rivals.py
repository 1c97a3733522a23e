"""A new classifier beside the live one, on prompts that neither was trained on: is it better?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from classifier.artifact import Artifact
from classifier.errors import ArmsDiffer, ArtifactIncompatible, TooFewItems
from classifier.evaluation.intervals import Interval, interval, weights
from classifier.evaluation.splits import Beliefs
from classifier.evaluation.standing import compare
from classifier.predictor import Prediction, Predictor
from classifier.tables import MIN_ITEMS, OutcomeTable

Matrix = NDArray[np.float64]

CANDIDATE, LIVE = "candidate", "live"
# A probability of 0 or 1 that proves wrong costs 14 nats instead of all there are.
_EDGE = 1e-6
_TOGETHER = 32


@dataclass(frozen=True, slots=True)
class Figure:
    """One measure of both; `gain` is how much better the candidate is, with its paired 95 % interval."""

    name: str
    candidate: float
    live: float
    gain: Interval

    @property
    def surely_better(self) -> bool:
        return self.gain.low is not None and self.gain.low > 0.0

    @property
    def surely_worse(self) -> bool:
        return self.gain.high is not None and self.gain.high < 0.0


@dataclass(frozen=True, slots=True)
class Rivalry:
    """On `prompts` prompts new to both, after `seen` were left out, over the `arms` that all have.

    `brier` and `log_loss` are means over prompts of an arm, then over arms. `area` is the frontier's: mean
    accuracy over budgets from the cheapest arm's tokens to the dearest's; None without prompts that have
    every arm.
    """

    prompts: int
    seen: int
    arms: tuple[str, ...]
    brier: Figure
    log_loss: Figure
    area: Figure | None

    @property
    def figures(self) -> tuple[Figure, ...]:
        return (self.brier, self.log_loss, *(() if self.area is None else (self.area,)))

    @property
    def better(self) -> bool:
        """Its Brier score is better beyond chance, and no other figure is worse beyond chance."""
        return self.brier.surely_better and not any(each.surely_worse for each in self.figures)

    @property
    def verdict(self) -> str:
        """Why it is or is not better, in one sentence."""
        worse = [each.name for each in self.figures if each.surely_worse]
        if worse:
            return f"it is worse than the live one ({', '.join(worse)}) beyond chance"
        if self.brier.surely_better:
            return "it beats the live one"
        return "it does not beat the live one beyond chance; record more prompts, or train on others"


def steps(table: OutcomeTable) -> int:
    """How often `rivalry` calls `done`, at most."""
    return 2 * len(table.items)


def rivalry(
    candidate: Artifact,
    live: Artifact,
    table: OutcomeTable,
    *,
    arms: Collection[str] | None = None,
    seed: int = 0,
    done: Callable[[], None] = lambda: None,
) -> Rivalry:
    """Compare on the prompts of `table` that neither was trained on; `arms` are those of the policy.

    Raises ArtifactIncompatible where one does not tell what it was trained on, ArmsDiffer without two arms
    that both, the table and `arms` have, TooFewItems below 40 prompts that are new to both.
    """
    for name, each in ((CANDIDATE, candidate), (LIVE, live)):
        if not each.weights.seen.size:
            raise ArtifactIncompatible(
                f"the {name} classifier {each.version} does not tell which prompts it was trained on, so "
                "that none can be called new to it; train it again"
            )
    common = [
        arm
        for arm in table.arms
        if arm in candidate.arms and arm in live.arms and (arms is None or arm in arms)
    ]
    if len(common) < 2:
        raise ArmsDiffer(
            f"the table has {', '.join(table.arms)}; comparing {candidate.version} with {live.version} needs "
            "two arms that both know, and the policy in force too"
        )
    table = table.only_arms(common)
    known = np.isin(table.fingerprints(), np.concatenate([candidate.weights.seen, live.weights.seen]))
    fresh = table.subset(np.flatnonzero(~known))
    if len(fresh.items) < MIN_ITEMS:
        raise TooFewItems(
            f"{len(fresh.items)} of the table's {len(table.items)} prompts are new to both classifiers, and "
            f"{MIN_ITEMS} are needed; train with --hold-out 0.2, or record others"
        )
    beliefs = {
        name: _beliefs(Predictor(each), fresh, done) for name, each in ((CANDIDATE, candidate), (LIVE, live))
    }
    every = np.concatenate(
        [np.full((1, len(fresh.items)), 1.0 / len(fresh.items)), weights(len(fresh.items), seed)]
    )
    return Rivalry(
        prompts=len(fresh.items),
        seen=int(known.sum()),
        arms=fresh.arms,
        brier=_loss("Brier score", every, fresh.scores, beliefs, lambda p, y: (p - y) ** 2),
        log_loss=_loss("log loss", every, fresh.scores, beliefs, _nats),
        area=_area(fresh.arms, beliefs, fresh, seed),
    )


def _beliefs(predictor: Predictor, table: OutcomeTable, done: Callable[[], None]) -> Beliefs:
    told: list[Prediction] = []
    for at in range(0, len(table.items), _TOGETHER):
        part = table.items[at : at + _TOGETHER]
        told += predictor.predict_all([item.messages for item in part])
        for _ in part:
            done()
    return Beliefs(
        np.array([[each.p[arm] for arm in table.arms] for each in told]),
        np.array([[each.tokens[arm] for arm in table.arms] for each in told]),
    )


def _nats(p: Matrix, y: Matrix) -> Matrix:
    q = np.clip(p, _EDGE, 1.0 - _EDGE)
    return -(y * np.log(q) + (1.0 - y) * np.log1p(-q))


def _loss(
    name: str,
    every: Matrix,
    scores: Matrix,
    beliefs: dict[str, Beliefs],
    loss: Callable[[Matrix, Matrix], Matrix],
) -> Figure:
    """Mean over the arms of each arm's mean, for all prompts and then each resample; the same for both."""
    known = ~np.isnan(scores)
    y = np.where(known, scores, 0.0)
    counted = every @ known.astype(np.float64)
    counted = np.where(counted > 0.0, counted, np.nan)
    of = {
        who: np.nanmean((every @ np.where(known, loss(b.p, y), 0.0)) / counted, axis=1)
        for who, b in beliefs.items()
    }
    gain = of[LIVE] - of[CANDIDATE]
    return Figure(name, float(of[CANDIDATE][0]), float(of[LIVE][0]), interval(float(gain[0]), gain[1:]))


def _area(arms: Sequence[str], beliefs: dict[str, Beliefs], table: OutcomeTable, seed: int) -> Figure | None:
    field = compare(arms, beliefs, table.scores, table.tokens, seed, CANDIDATE)
    if field is None:
        return None
    area = {each.name: each.area.value for each in field.standings}
    mine, theirs = area[CANDIDATE], area[LIVE]
    if mine is None or theirs is None:
        return None
    return Figure("frontier area", mine, theirs, field.ahead[LIVE])
