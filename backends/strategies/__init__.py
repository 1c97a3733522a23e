"""The strategies by name: ways to spend compute on one request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from backends.strategies.base import Run, StrategyResult
from backends.strategies.beam import beam
from backends.strategies.direct import direct
from backends.strategies.self_consistency import self_consistency

Strategy = Callable[[Run], Awaitable[StrategyResult]]

STRATEGIES: Mapping[str, Strategy] = {
    "direct": direct,
    "self_consistency": self_consistency,
    "beam": beam,
}
