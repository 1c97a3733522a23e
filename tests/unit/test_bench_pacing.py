"""A simulated day: pacing makes a budget last that greedy routing spends by noon, and leaves ample alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import pacing
from benchmarks.pacing import Arrival, Day, bursty, simulate, steady
from policies.limit_spec import Pacing
from policies.pacing import DAY_S

COUNT = 600
Traffic = Callable[[int, int], list[Arrival]]


@pytest.fixture(scope="module", params=[steady, bursty], ids=["steady", "bursty"])
def day(request: pytest.FixtureRequest) -> tuple[list[Arrival], Day]:
    traffic: Traffic = request.param
    arrivals = traffic(COUNT, 3)
    return arrivals, simulate(arrivals, math.inf, None)


def test_half_the_budget_lasts_the_day_with_pacing_and_not_without(day: tuple[list[Arrival], Day]) -> None:
    arrivals, free = day
    greedy = simulate(arrivals, 0.5 * free.spent, None)
    paced = simulate(arrivals, 0.5 * free.spent, Pacing())
    assert greedy.dry_s is not None
    assert greedy.dry_s < 0.7 * DAY_S
    assert greedy.refused > COUNT / 4
    assert paced.refused <= COUNT / 100
    assert paced.success > greedy.success + 0.2
    assert paced.spent <= 0.5 * free.spent
    assert paced.spent > 0.9 * 0.5 * free.spent  # it is there to be spent


def test_with_twice_the_budget_nothing_changes(day: tuple[list[Arrival], Day]) -> None:
    arrivals, free = day
    ample = simulate(arrivals, 2 * free.spent, Pacing())
    assert (ample.spent, ample.success, ample.refused) == (free.spent, free.success, 0)


def test_a_budget_that_just_suffices_costs_little(day: tuple[list[Arrival], Day]) -> None:
    """Not nothing: a burst looks like spending that would go on, and is answered with less."""
    arrivals, free = day
    paced = simulate(arrivals, free.spent, Pacing())
    assert paced.refused == 0
    assert paced.success > free.success - 0.05


def test_what_would_be_left_can_buy_accuracy() -> None:
    """Where traffic is steady. A burst is answered with less all the same, which may cost what was gained."""
    arrivals = steady(COUNT, 3)
    free = simulate(arrivals, math.inf, None)
    generous = simulate(arrivals, 2 * free.spent, Pacing(min_factor=0.05))
    assert generous.success > free.success
    assert free.spent < generous.spent <= 2 * free.spent


def test_days_are_the_same_every_time() -> None:
    assert bursty(100, 5) == bursty(100, 5) != bursty(100, 6)
    assert [a.at_s for a in steady(100, 5)] == sorted(a.at_s for a in steady(100, 5))
    assert all(0 <= a.at_s < DAY_S for a in bursty(1000, 5))


def test_the_command_prints_and_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pacing, "REQUESTS", 60)
    pacing.main(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.count("0.5 x") == 4
