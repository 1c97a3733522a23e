"""From the shipped outcome table to docs/routing.md: figures on held-out prompts and families."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from string import Template
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

from classifier.artifact import Artifact, load
from classifier.errors import ClassifierError
from classifier.evaluation.grids import Grid, figure, told
from classifier.evaluation.pages import as_plain, grids, views
from classifier.evaluation.plots import draw
from classifier.evaluation.robustness import robustness
from classifier.evaluation.standing import MIX, Field
from classifier.evaluation.study import Study, study
from classifier.predictor import DEFAULT_ARTIFACT
from classifier.tables import OutcomeTable, read_table

PAGE = Path(__file__).with_name("page.md")
TABLE = Path("benchmarks/data/smollm2_135m.jsonl")
SEED = 0
# What issue and users are promised; the page says of each whether it is kept.
_ECE, _TOKENS, _GAP = 0.05, 0.40, 0.50


def main(
    table: Annotated[Path, typer.Argument(help="Outcome table.")] = TABLE,
    artifact: Annotated[Path, typer.Option(help="Classifier trained on it.")] = DEFAULT_ARTIFACT,
    out: Annotated[Path, typer.Option(help="Where routing.md, routing.json and the plots go.")] = Path(
        "docs"
    ),
) -> None:
    """Measure, print and write."""
    console = Console(width=110, highlight=False, markup=False)
    try:
        read, known = read_table(table), load(artifact)
        out.mkdir(parents=True, exist_ok=True)
        with console.status("fitting on parts of the table"):
            found = study(known, read, SEED)
        changes = robustness(known, read)
        plots = draw(found, out, "routing")
        plain = as_plain(found, known.version, read.sha256, changes)
        (out / "routing.json").write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
        text = page(found, read, known, table, changes, plots)
        (out / "routing.md").write_text(text, encoding="utf-8")
    except ClassifierError as error:
        console.print(str(error), style="red", soft_wrap=True)
        raise typer.Exit(2) from None
    except OSError as error:
        console.print(f"{out} cannot be written to: {error}", style="red", soft_wrap=True)
        raise typer.Exit(2) from None
    for grid in grids(found, changes):
        console.print(grid.rich())
    for line in verdicts(found):
        console.print(f"- {line}")
    console.print(f"written: {out / 'routing.md'}, routing.json and the plots")


def page(
    found: Study,
    table: OutcomeTable,
    artifact: Artifact,
    path: Path,
    changes: dict[str, float],
    plots: list[str],
) -> str:
    """The page in Markdown: fixed words around what was measured."""
    return Template(PAGE.read_text(encoding="utf-8")).substitute(
        prompts=f"{len(table.items):,}",
        families=len(table.families),
        table=path,
        sha256=table.sha256[:16],
        classifier=artifact.version,
        trained=artifact.card.get("date"),
        verdicts="\n".join(f"- {line}" for line in verdicts(found)),
        shares=_shares(table).markdown(),
        confidence=_confidence(artifact).markdown(),
        plots="\n\n".join(f"![{plot}]({plot})" for plot in plots),
        figures="\n\n".join(grid.markdown() for grid in grids(found, changes)),
    )


def verdicts(found: Study) -> list[str]:
    """One sentence a promise, kept or not, and one a rival."""
    lines = []
    for title, view in views(found):
        worst = max((m["ece"], arm) for arm, m in view.metrics[found.contender].items())
        lines.append(
            f"{title}: the highest ECE of an arm is {worst[0]:.3f} ({worst[1]}); "
            f"{_kept(worst[0] <= _ECE)} (at most {_ECE:.2f})."
        )
        if view.field is not None:
            lines += _field(title, view.field, found.contender)
    return lines


def _field(title: str, field: Field, contender: str) -> list[str]:
    mine = next(s for s in field.standings if s.name == contender)
    share, gap = mine.tokens_at_best.value, mine.gap_at_best.value
    lines = [
        f"{title}: the accuracy of {field.best} is "
        + ("never reached" if share is None else f"reached with {told(mine.tokens_at_best, 2)} of its tokens")
        + f"; {_kept(share is not None and share <= _TOKENS)} (at most {_TOKENS:.2f}).",
        f"{title}: at its tokens {told(mine.gap_at_best, 2)} of the oracle's lead is closed, over all "
        f"budgets {told(mine.gap_closed, 2)}; {_kept(gap is not None and gap >= _GAP)} (at least {_GAP}).",
    ]
    for name, ahead in field.ahead.items():
        low, high = ahead.low or 0.0, ahead.high or 0.0
        word = "ahead of" if low > 0 else "behind" if high < 0 else "not to be told from"
        than = "the best mix of fixed arms" if name == MIX else name
        lines.append(f"{title}: the router is {word} {than}: {told(ahead, 3, sign=True)} in area.")
    return lines


def _kept(kept: bool) -> str:
    return "**kept**" if kept else "**not kept**"


def _shares(table: OutcomeTable) -> Grid:
    """Share of right answers a family."""
    members: dict[str, list[int]] = defaultdict(list)
    for row, item in enumerate(table.items):
        members[item.family].append(row)
    arms = range(len(table.arms))
    rows = tuple(
        (
            name,
            str(len(at)),
            *(figure(float(np.nanmean(table.scores[at, a])), 2) for a in arms),
        )
        for name, at in sorted(members.items())
    )
    return Grid("Share of right answers a family", ("family", "prompts", *table.arms), rows)


def _confidence(artifact: Artifact) -> Grid:
    rows = []
    for arm, found in artifact.card["metrics"]["confidence"].items():
        for key, said in (("prior", "prediction alone"), ("confidence", "with the sample")):
            rows.append((arm, said, *(figure(found[key][name]) for name in ("brier", "ece", "auc"))))
    return Grid("What one sample adds, held out", ("arm", "", "Brier", "ECE", "AUC"), tuple(rows))


if __name__ == "__main__":
    typer.run(main)
