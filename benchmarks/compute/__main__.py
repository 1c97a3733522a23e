"""From a recorded outcome table to tables, plots and a page: see docs/compute.md."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.compute.report import make
from benchmarks.compute.table import read_recording
from classifier.errors import TableError

DATA = Path("benchmarks/data")
TABLES = [DATA / "smollm2_135m.jsonl", DATA / "smollm2_135m_search.jsonl"]
WIDTH = 100


def main(
    tables: Annotated[
        list[Path], typer.Argument(help="Outcome tables in JSON lines, read as one.", show_default=False)
    ] = TABLES,
    out: Annotated[Path, typer.Option(help="Where compute.md and its plots go.")] = Path("docs"),
) -> None:
    """Replay every strategy on what was recorded; print the figures and write them."""
    console = Console(width=WIDTH, highlight=False, markup=False)
    try:
        recording = read_recording(*tables)
        out.mkdir(parents=True, exist_ok=True)
        with console.status("reading") as status:
            report = make(recording, tables, out, status.update)
        (out / "compute.md").write_text(report.page(), encoding="utf-8")
    except TableError as error:
        console.print(str(error), style="red", soft_wrap=True)
        raise typer.Exit(2) from None
    except OSError as error:
        console.print(f"{out} cannot be written to: {error}", style="red", soft_wrap=True)
        raise typer.Exit(2) from None
    for figure in report.figures:
        figure.show(console)
    for line in report.provenance:
        console.print(line, soft_wrap=True)
    console.print(f"written: {out / 'compute.md'} and its plots")


if __name__ == "__main__":
    typer.run(main)
