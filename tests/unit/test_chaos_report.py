"""A run is well only if something was checked and all of it held, and the command ends accordingly."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.chaos import __main__ as chaos
from benchmarks.chaos.report import Report


def test_nothing_checked_is_not_well() -> None:
    report = Report("x")
    assert not report.well
    report.check(True, "a")
    assert report.well
    report.check(False, "b")
    assert not report.well


@pytest.mark.parametrize("holds", [True, False])
def test_the_exit_status_tells(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, holds: bool) -> None:
    def made(run: object, server: str, binary: str) -> Report:
        report = Report("made up", server)
        report.check(holds, "the invariant")
        return report

    monkeypatch.setattr(chaos, "_made", made)
    monkeypatch.setattr(chaos, "OTHERS", ())
    monkeypatch.setattr(chaos.logging, "disable", lambda level: None)
    with pytest.raises(SystemExit) as ended:
        chaos.main()
    assert ended.value.code == (0 if holds else 1)
