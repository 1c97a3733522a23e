"""Tables of text and sentences made from numbers, so that words and figures cannot part."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Column, Table

from benchmarks.compute.bootstrap import Interval

_NOTHING = 1e-12  # sums in another order


@dataclass(frozen=True, slots=True)
class Grid:
    """A table: first column to the left, the others to the right."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def show(self, console: Console) -> None:
        first, *others = self.columns
        table = Table(
            Column(first, overflow="fold"),
            *(Column(name, justify="right", no_wrap=True) for name in others),
            title=self.title,
            title_justify="left",
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            pad_edge=False,
        )
        for row in self.rows:
            table.add_row(*row)
        console.print(table)

    def markdown(self) -> str:
        lines = [self.columns, ("---", *("---:" for _ in self.columns[1:])), *self.rows]
        return f"**{self.title}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


@dataclass(frozen=True, slots=True)
class Figure:
    """One question answered: sentences, tables, and the plot's file name (None where nothing was plotted)."""

    key: str
    words: tuple[str, ...]
    grids: tuple[Grid, ...] = ()
    plot: str | None = None

    def show(self, console: Console) -> None:
        for grid in self.grids:
            grid.show(console)
        for sentence in self.words:
            console.print(f"- {sentence}")
        console.print()

    def markdown(self) -> str:
        parts = ["\n".join(f"- {sentence}" for sentence in self.words)]
        if self.plot:
            parts.append(f"![{self.key}]({self.plot})")
        parts += [grid.markdown() for grid in self.grids]
        return "\n\n".join(parts)


def percent(told: Interval) -> str:
    """A share as per cent."""
    return told.text(1, 100.0)


def points(told: Interval) -> str:
    """A difference of shares as percentage points."""
    return told.text(1, 100.0, sign=True)


def versus(one: str, other: str, difference: Interval, at: str = "") -> str:
    """Who is more accurate, by how much, or that it cannot be told. `difference` is one's minus other's."""
    where = f" {at}" if at else ""
    if max(-difference.low, difference.high) < _NOTHING:
        return f"{one} and {other} are equally accurate on every prompt{where}."
    if difference.holds(0.0):
        return f"{one} and {other} cannot be told apart{where}: {points(difference)} points."
    word = "better" if difference.value > 0 else "worse"
    return f"{one} is {word} than {other}{where}: {points(difference)} points."


def listed(names: Iterable[str]) -> str:
    """`a, b and c`."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
