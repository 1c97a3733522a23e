"""One table of words, for the terminal and for a page."""

from __future__ import annotations

from dataclasses import dataclass

from rich.box import SIMPLE
from rich.table import Column, Table

from classifier.evaluation.intervals import Interval


@dataclass(frozen=True, slots=True)
class Grid:
    """First column to the left, the others to the right; `about` is a sentence below."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    about: str = ""

    def rich(self) -> Table:
        first, *others = self.columns
        table = Table(
            Column(first, overflow="fold"),
            *(Column(name, justify="right") for name in others),
            title=self.title,
            caption=self.about,
            title_justify="left",
            caption_justify="left",
            box=SIMPLE,
        )
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        rows = [[cell.replace("|", "\\|") for cell in row] for row in (self.columns, *self.rows)]
        lines = [rows[0], ["---", *("---:" for _ in self.columns[1:])], *rows[1:]]
        text = f"**{self.title}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"{text}\n\n{self.about}" if self.about else text


def told(found: Interval, digits: int = 3, sign: bool = False) -> str:
    """`value [low, high]`, a dash where it is not defined or never reached."""
    form = f"{'+' if sign else ''}z,.{digits}f"
    if found.value is None:
        return "-"
    if found.low is None or found.high is None:
        return format(found.value, form)
    return f"{found.value:{form}} [{found.low:{form}}, {found.high:{form}}]"


def figure(value: float | None, digits: int = 3) -> str:
    """A number, or a dash."""
    return "-" if value is None or value != value else f"{value:.{digits}f}"
