"""The strategies by name: ways to spend compute on one request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from backends.strategies.base import Run, StrategyResult
from backends.strategies.beam import beam
from backends.strategies.best_of_n import best_of_n
from backends.strategies.cot import cot
from backends.strategies.direct import direct
from backends.strategies.mcts import mcts
from backends.strategies.rebase import rebase
from backends.strategies.refine import refine
from backends.strategies.self_consistency import self_consistency

Strategy = Callable[[Run], Awaitable[StrategyResult]]

STRATEGIES: Mapping[str, Strategy] = {
    "direct": direct,
    "cot": cot,
    "self_consistency": self_consistency,
    "best_of_n": best_of_n,
    "refine": refine,
    "beam": beam,
    "rebase": rebase,
    "mcts": mcts,
}
