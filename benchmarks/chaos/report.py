"""What a run found, and how it is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

Progress = Callable[[str], None]


@dataclass(slots=True)
class Report:
    """`checks` are the invariants, with what was counted; `figures` are told beside them."""

    name: str
    server: str = ""
    checks: list[tuple[bool, str]] = field(default_factory=list)
    figures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def check(self, holds: bool, said: str) -> None:
        self.checks.append((holds, said))

    @property
    def well(self) -> bool:
        """Something was checked, and all of it held."""
        return bool(self.checks) and all(holds for holds, _ in self.checks)
