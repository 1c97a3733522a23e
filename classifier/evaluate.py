"""Figures on prompts that were held out: calibration per arm, and what routing by them would have cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classifier.calibration import brier, ece, ece_noise

Matrix = NDArray[np.float64]

# Spending of the router's rows, as shares of what it spends when tokens are free.
_SHARES = (1.0, 0.75, 0.5, 0.35, 0.2, 0.1, 0.05)


@dataclass(frozen=True, slots=True)
class FrontierRow:
    """One way to choose arms. `accuracy` and `tokens` (completion) are means over prompts.

    `mix_accuracy` is what the best random mix of fixed arms, known only afterwards, reaches with as many
    tokens: the line that a router has to beat. `lam` is the price of a token in accuracy, for router rows.
    """

    name: str
    accuracy: float
    tokens: float
    mix_accuracy: float
    lam: float | None = None


def arm_metrics(arms: Sequence[str], p: Matrix, scores: Matrix, base: Matrix) -> dict[str, dict[str, Any]]:
    """Per arm of (n, arms) held-out p and scores: items, base rate, Brier, ECE (15 equal masses), AUC.

    `brier_base` is what always saying the training base rate, `base` (n, arms), scores. `ece_floor` is the
    ECE of a perfectly calibrated p on as few rows, and `ece_noise_95` what one such p in 20 exceeds. AUC
    takes scores from 0.5 as right, None with one class.
    """
    metrics: dict[str, dict[str, Any]] = {}
    for column, arm in enumerate(arms):
        known = ~np.isnan(scores[:, column]) & ~np.isnan(p[:, column])
        y, q = scores[known, column], p[known, column]
        floor, noise = ece_noise(q)
        metrics[arm] = {
            "items": int(y.size),
            "base_rate": float(y.mean()) if y.size else None,
            "brier": brier(q, y),
            "brier_base": brier(base[known, column], y),
            "ece": ece(q, y),
            "ece_floor": floor,
            "ece_noise_95": noise,
            "auc": _auc(q, y >= 0.5),
        }
    return metrics


def _auc(p: Matrix, right: NDArray[np.bool_]) -> float | None:
    if not right.any() or right.all():
        return None
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(right, p))


def frontier(
    arms: Sequence[str], p: Matrix, expected: Matrix, scores: Matrix, tokens: Matrix
) -> list[FrontierRow]:
    """Accuracy against completion tokens on the prompts that have every arm; empty if none has.

    All arguments but `arms` are (n, arms): held-out p(success) and expected tokens, recorded scores and
    tokens. Rows: every fixed arm, cheapest first (all-cheap ... all-dear), a uniform random mix, the router
    argmax p - lam * expected tokens with lam 0 and with prices that should spend a share of that, and the
    oracle: the cheapest arm that is right, or the cheapest of all.
    """
    complete = ~np.isnan(scores).any(axis=1) & ~np.isnan(p).any(axis=1)
    if not complete.any():
        return []
    p, expected, scores, tokens = p[complete], expected[complete], scores[complete], tokens[complete]
    accuracy, cost = scores.mean(axis=0), tokens.mean(axis=0)
    order = np.argsort(cost, kind="stable")

    def row(name: str, got: float, spent: float, lam: float | None = None) -> FrontierRow:
        return FrontierRow(name, got, spent, _mix(accuracy, cost, spent), lam)

    def chosen(name: str, choice: NDArray[np.intp], lam: float | None = None) -> FrontierRow:
        at = np.arange(len(choice))
        return row(name, float(scores[at, choice].mean()), float(tokens[at, choice].mean()), lam)

    names = list(arms)
    for index, label in (
        (order[0], "all-cheap"),
        (order[-1], "all-dear"),
        (np.argmax(accuracy), "best fixed"),
    ):
        names[index] += f" ({label})"
    rows = [row(names[a], float(accuracy[a]), float(cost[a])) for a in order]
    rows.append(row("random arm", float(accuracy.mean()), float(cost.mean())))
    dearest = float(expected[np.arange(len(p)), np.argmax(p, axis=1)].mean())
    for share in _SHARES:
        price = price_for(p, expected, share * dearest)
        name = "router, price 0" if share == 1.0 else f"router, {share:.0%} of that"
        rows.append(chosen(name, np.argmax(p - price * expected, axis=1), price))
    rows.append(chosen("oracle", _oracle(scores, tokens)))
    return rows


def price_for(p: Matrix, expected: Matrix, budget: float) -> float:
    """The least price of a token at which argmax p - price * expected is expected to spend `budget` a prompt.

    Binary search (arXiv 2604.14853); it looks at predictions alone, as a policy would have to.
    """

    def spend(price: float) -> float:
        choice = np.argmax(p - price * expected, axis=1)
        return float(expected[np.arange(len(choice)), choice].mean())

    if spend(0.0) <= budget:
        return 0.0
    # in logarithms: arms' costs, and so the prices that matter, span orders of magnitude
    low, high = -40.0, 5.0
    for _ in range(50):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if spend(float(np.exp(middle))) > budget else (low, middle)
    return float(np.exp(high))


def _mix(accuracy: Matrix, cost: Matrix, budget: float) -> float:
    """The best accuracy of a random mix of two fixed arms whose mean cost is at most `budget`."""
    best = float("-inf")
    for a in range(cost.size):
        if cost[a] <= budget + 1e-9:
            best = max(best, float(accuracy[a]))
        for b in range(cost.size):
            if cost[a] <= budget < cost[b]:
                share = (budget - cost[a]) / (cost[b] - cost[a])
                best = max(best, float(accuracy[a] + share * (accuracy[b] - accuracy[a])))
    # below the cheapest arm nothing can be mixed: compare with that arm
    return best if np.isfinite(best) else float(accuracy[int(np.argmin(cost))])


def _oracle(scores: Matrix, tokens: Matrix) -> NDArray[np.intp]:
    """Per prompt the cheapest arm whose score is the best of all (0.5 or more), else the cheapest."""
    top = scores.max(axis=1, keepdims=True)
    able = (scores >= top) | (top < 0.5)
    cheapest: NDArray[np.intp] = np.argmin(np.where(able, tokens, np.inf), axis=1)
    return cheapest
