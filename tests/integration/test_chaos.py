"""What `make chaos` does at length, in short: every invariant, on the embedded server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from benchmarks.chaos import dropped_replies, killed_replicas, killed_stores, skewed_clocks
from benchmarks.chaos.report import Report
from tests.servers import ValkeyServer

Start = Callable[..., ValkeyServer]


def silent(said: str) -> None:
    """Progress, which nobody looks at here."""


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(lambda s: dropped_replies.run(s, silent, requests=300, replicas=4), id="lost replies"),
        pytest.param(lambda s: killed_replicas.run(s, silent, kills=2), id="killed replicas"),
        pytest.param(lambda s: killed_stores.run(s, silent, kills=1, replicas=2), id="killed store"),
        pytest.param(lambda s: skewed_clocks.run(s, silent), id="wrong clocks"),
    ],
)
async def test_chaos(start_valkey: Start, run: Callable[[Start], Awaitable[Report]]) -> None:
    report = await run(start_valkey)
    # How long things took is `make chaos`'s business: this machine may be busy.
    broken = [said for holds, said in report.checks if not holds and " s " not in said]
    assert not broken
    assert len(report.checks) >= 3
