"""The short form of `make chaos`'s thousand reloads, and that it would notice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.chaos import policies
from router.pipeline import Pipeline
from router.ruling import Ruling
from tests.servers import ValkeyServer


async def test_a_hundred_reloads_of_which_thirty_are_broken_harm_no_request(
    start_valkey: Callable[..., ValkeyServer], tmp_path: Path
) -> None:
    server = start_valkey("--appendonly", "no")
    found = await policies.run(server.url, tmp_path, reloads=100, broken=30, clients=2)
    assert found.problems == []
    assert (found.reloads, found.broken) == (100, 30)
    assert found.requests > 20
    assert len(found.named) > 5


async def test_a_service_that_stops_following_is_noticed(
    start_valkey: Callable[..., ValkeyServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ignore(pipeline: Pipeline, ruling: Ruling) -> None:
        """A mutant: the policy that it began with decides for ever."""

    monkeypatch.setattr(Pipeline, "rule", ignore)
    server = start_valkey("--appendonly", "no")
    found = await policies.run(server.url, tmp_path, reloads=3, broken=1, clients=1)
    assert any("it ends on" in problem for problem in found.problems)
