"""The whole service on the recorded table: planner, ladder, early stops and judges of samples.

What `study` calls the router chooses one arm and takes what comes. The service goes on from there: a sample
that looks bad sends the prompt up the ladder. Everyone's predictions are put in its place, so that what is
compared is the predictions; tokens are those that a budget is charged, prompts of all calls too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.routing.reachable import reachable
from classifier.confidence_fit import fit_confidences
from classifier.evaluation.curves import Path
from classifier.evaluation.splits import KNN, ROUTER, TFIDF, Beliefs, HeldOut
from classifier.evaluation.standing import Field, compare
from classifier.predictor import Prediction
from classifier.tables import OutcomeTable
from policies.schema import Policy
from router.replay.beliefs import Beliefs as Predicted
from router.replay.recording import Recording
from router.replay.table import replay_table

Matrix = NDArray[np.float64]

SERVICE, ONE_ARM = "service", "one arm by prediction"
REACHABLE, RATES = "oracle of expected scores", "rates of its family"
PLACED: Mapping[str, str] = {
    ROUTER: SERVICE,
    KNN: f"service with {KNN}",
    TFIDF: f"service with {TFIDF}",
}
TENANT = "demo"
# Success probability that 1,000 tokens are worth, from "only tokens matter" to 0; times the effort's weight.
PRICES = (100.0, 10.0, 4.0, 2.0, 1.0, 0.6, 0.4, 0.3, 0.2, 0.1, 0.04, 0.0)
ROUNDS = 2  # of the splits: a replay carries out every plan, which takes its time


@dataclass(frozen=True, slots=True)
class Carried:
    """What the service gets and is charged with someone's predictions in it: (rows, prices) each."""

    path: Path
    climbed: float  # share of requests whose plan went on to a second arm, over all prices


def steps(held: HeldOut) -> int:
    """How often `service` calls `done`."""
    return len(PLACED) * len(PRICES) * min(ROUNDS, int(held.round.max()) + 1)


def service(
    policy: Policy, recorded: Recording, held: HeldOut, seed: int, done: Callable[[], None] = lambda: None
) -> tuple[Field, float]:
    """Everyone's place, tokens being those that are charged, and the share of requests that climbed.

    `held` are beliefs about `recorded.table`, which has every arm on every prompt. Raises ValueError if not.
    """
    rows = np.flatnonzero(held.round < ROUNDS)
    at, table = held.at[rows], recorded.table
    carried = {
        place: _carried(policy, recorded, held, rows, name, seed, done) for name, place in PLACED.items()
    }
    charged = np.array([[cells[arm].charged_tokens for arm in table.arms] for cells in recorded.cells], float)
    expected = reachable(policy, recorded)
    field = compare(
        table.arms,
        {
            ONE_ARM: held.beliefs[ROUTER].at(rows),
            RATES: family_rates(table).at(at),
            REACHABLE: expected.at(at),
        },
        table.scores[at],
        charged[at],
        seed,
        SERVICE,
        prompts=at,
        carried={place: found.path for place, found in carried.items()},
    )
    if field is None:
        raise ValueError("no prompt has every arm")
    return field, carried[SERVICE].climbed


def family_rates(table: OutcomeTable) -> Beliefs:
    """(n, arms) mean scores and tokens of the others of each prompt's family; of all where it is alone."""
    p, tokens = np.empty(table.scores.shape), np.empty(table.scores.shape)
    names = np.array([item.family for item in table.items])
    for row in range(len(names)):
        others = names == names[row]
        others[row] = False
        near = others if others.any() else np.arange(len(names)) != row
        p[row], tokens[row] = table.scores[near].mean(axis=0), table.tokens[near].mean(axis=0)
    return Beliefs(p, tokens)


def _carried(
    policy: Policy,
    recorded: Recording,
    held: HeldOut,
    rows: NDArray[np.intp],
    name: str,
    seed: int,
    done: Callable[[], None],
) -> Carried:
    got, spent = np.empty((rows.size, len(PRICES))), np.empty((rows.size, len(PRICES)))
    climbed = 0
    for number in np.unique(held.round[rows]):
        mine = held.round[rows] == number
        believed = predictions(recorded.table, held, rows[mine], name, seed)
        for column, price in enumerate(PRICES):
            asked = {"quality_target": 1.0, "cost_weight": price, "default_effort": "max"}
            tenant = policy.tenants[TENANT].model_copy(update=asked)
            found = replay_table(policy, recorded, believed, tenant=tenant)
            got[mine, column], spent[mine, column] = found.scores, found.charged_tokens
            climbed += sum(len(o.arms_tried) > 1 for o in found.outcomes)
            done()
    return Carried(Path(got, spent), climbed / max(1, got.size))


def predictions(
    table: OutcomeTable, held: HeldOut, rows: NDArray[np.intp], name: str, seed: int
) -> Predicted:
    """One split's beliefs as the service takes them, with judges of single samples fitted on the other parts.

    `rows` are all those of one round of `held`.
    """
    at, beliefs, groups = held.at[rows], held.beliefs[name].at(rows), table.content_groups()
    p = np.full(table.scores.shape, np.nan)
    p[at] = beliefs.p
    judges = {}
    for part in np.unique(held.fold[rows]):
        kept = np.setdiff1d(at, at[held.fold[rows] == part])
        judges[part] = fit_confidences(table.subset(kept), p[kept], groups[kept], seed).models
    cheapest = int(np.argmin(table.tokens.mean(axis=0)))

    def named(values: Matrix) -> dict[str, float]:
        return dict(zip(table.arms, values.tolist(), strict=True))

    told = tuple(
        Prediction(
            p=named(beliefs.p[i]),
            tokens=named(beliefs.tokens[i]),
            tokens_high=named(2.0 * beliefs.tokens[i]),
            difficulty=1.0 - float(beliefs.p[i, cheapest]),
            ood=0.0,
            version=name,
            confidences=judges[held.fold[row]],
        )
        for i, row in enumerate(rows)
    )
    return Predicted(at, told, f"Held-out predictions of {name}.")
