"""All figures of a table: measured, plotted, and written as one page."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from benchmarks.compute import plots
from benchmarks.compute.bootstrap import RESAMPLES
from benchmarks.compute.figures import accuracy, order, scaling, search, stopping
from benchmarks.compute.grid import Figure
from benchmarks.compute.groups import depth_groups, family_groups
from benchmarks.compute.replay import CONFIDENCE, ORDERS
from benchmarks.compute.table import Recording

PAGE = Path(__file__).with_name("page.md")


@dataclass(frozen=True, slots=True)
class Report:
    """Every figure, and the lines that say what they were made from."""

    provenance: tuple[str, ...]
    figures: tuple[Figure, ...]
    families: str | None

    def page(self) -> str:
        """The page in Markdown."""
        plot = f"![Accuracy against tokens by family]({self.families})" if self.families else ""
        told = {figure.key: figure.markdown() for figure in self.figures}
        text = Template(PAGE.read_text(encoding="utf-8")).substitute(
            told,
            provenance="\n".join(f"- {line}" for line in self.provenance),
            families=plot,
            resamples=f"{RESAMPLES:,}",
            orders=ORDERS,
            confidence=CONFIDENCE,
        )
        return text.replace("\n\n\n", "\n\n")


def make(recording: Recording, tables: Sequence[Path], out: Path, say: Callable[[str], None]) -> Report:
    """Measure all figures and write their plots into `out`."""
    say("accuracy against tokens")
    overall, by_family = accuracy.measure(recording)
    plot = plots.accuracy(out / "compute-accuracy.png", overall) if overall else None
    families = plots.families(out / "compute-families.png", by_family) if by_family else None
    figures = [accuracy.figure(recording, overall, by_family, plot)]
    say("scaling curves")
    growths = scaling.measure(recording)
    plot = plots.scaling(out / "compute-scaling.png", growths) if growths else None
    figures.append(scaling.figure(growths, plot))
    say("stopping")
    savings = stopping.measure(recording, depth_groups(recording))
    plot = plots.stopping(out / "compute-stopping.png", savings) if savings else None
    figures.append(stopping.figure(savings, stopping.measure(recording, family_groups(recording)), plot))
    say("order of counting")
    orders = order.measure(recording)
    plot = plots.order(out / "compute-order.png", orders) if orders else None
    figures.append(order.figure(orders, plot))
    say("tree search")
    duels = search.measure(recording)
    plot = plots.search(out / "compute-search.png", duels) if duels else None
    figures.append(search.figure(recording, duels, plot))
    return Report(_provenance(recording, tables, out), tuple(figures), families)


def _provenance(recording: Recording, tables: Sequence[Path], out: Path) -> tuple[str, ...]:
    read, count = recording.table, recording.pools.count
    sizes = dict.fromkeys(map(str, (count[count > 0].min(initial=count.max()), count.max())))
    named = " ".join(map(str, tables))
    return (
        f"Recorded: `{named}`, SHA-256 `{read.sha256[:16]}...`: {len(read.items)} prompts of "
        f"{len(set(recording.kinds))} kinds (a family at a difficulty), {read.rows} rows, "
        f"{' to '.join(sizes)} samples a prompt.",
        f"Command: `python -m benchmarks.compute {named} --out {out}`",
        f"Replayed on: {_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}.",
    )


def _processor() -> str:
    """The CPU's model name, as Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
