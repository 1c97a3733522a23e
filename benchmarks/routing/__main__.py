"""From the shipped outcome table to docs/routing.md: figures on held-out prompts and families.

Of the classifier alone, and of the whole service with it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from string import Template
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.routing.service import RATES, REACHABLE, SERVICE, service
from benchmarks.routing.service import ROUNDS as SERVED
from benchmarks.routing.service import steps as service_steps
from classifier.artifact import Artifact, finite, load
from classifier.errors import ClassifierError
from classifier.evaluation.grids import Grid, figure, told
from classifier.evaluation.pages import as_plain, field_plain, frontier_grids, grids, views
from classifier.evaluation.plots import draw, draw_frontiers
from classifier.evaluation.robustness import robustness
from classifier.evaluation.standing import MIX, Field
from classifier.evaluation.study import Study, steps, study
from classifier.predictor import DEFAULT_ARTIFACT
from classifier.tables import OutcomeTable, read_table
from policies.errors import PolicyFileError
from policies.loader import load_policy
from router.replay.errors import NothingToReplay
from router.replay.recording import read_recording

PAGE = Path(__file__).with_name("page.md")
TABLE = Path("benchmarks/data/smollm2_135m.jsonl")
POLICY = Path("policies/default.yaml")
SEED = 0
# Splits of the table: what one of them happens to give is luck.
ROUNDS = 5
# What issue and users are promised; the page says of each whether it is kept.
_ECE, _TOKENS, _GAP = 0.05, 0.40, 0.50

# Title, everyone's place, share of plans that went on to a second arm.
Served = tuple[str, Field, float]


def main(
    table: Annotated[Path, typer.Argument(help="Outcome table.")] = TABLE,
    artifact: Annotated[Path, typer.Option(help="Classifier trained on it.")] = DEFAULT_ARTIFACT,
    policy_file: Annotated[Path, typer.Option("--policy", help="Policy whose arms were recorded.")] = POLICY,
    out: Annotated[Path, typer.Option(help="Where routing.md, routing.json and the plots go.")] = Path(
        "docs"
    ),
) -> None:
    """Measure, print and write."""
    console = Console(width=110, highlight=False, markup=False)
    try:
        read, known = read_table(table), load(artifact)
        out.mkdir(parents=True, exist_ok=True)
        policy = load_policy(policy_file)
        with _bar(console, "fitting on parts of the table", steps(read, SEED, ROUNDS)) as done:
            found = study(known, read, SEED, done=done, rounds=ROUNDS)
        recorded = read_recording(table, policy)
        served: list[Served] = []
        for title, view in views(found):
            with _bar(console, f"the service, {title}", service_steps(view.held)) as done:
                served.append((title, *service(policy, recorded, view.held, SEED, done)))
        changes = robustness(known, read)
        plots = draw(found, out, "routing")
        fields = [(f"{title}, the whole service", field) for title, field, _ in served]
        plots.insert(1, draw_frontiers(fields, out / "routing-service.png", "tokens charged a prompt"))
        plain = as_plain(found, known.version, read.sha256, changes)
        plain["service"] = finite({title: _plain(field, climbed) for title, field, climbed in served})
        (out / "routing.json").write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
        text = page(found, served, read, known, table, changes, plots)
        (out / "routing.md").write_text(text, encoding="utf-8")
    except (ClassifierError, PolicyFileError, NothingToReplay) as error:
        console.print(str(error), style="red", soft_wrap=True)
        raise typer.Exit(2) from None
    except OSError as error:
        console.print(f"{out} cannot be written to: {error}", style="red", soft_wrap=True)
        raise typer.Exit(2) from None
    for grid in [*grids(found, changes), *_service_grids(served)]:
        console.print(grid.rich())
    for line in [*verdicts(found), *service_verdicts(served)]:
        console.print(f"- {line}")
    console.print(f"written: {out / 'routing.md'}, routing.json and the plots")


@contextmanager
def _bar(console: Console, said: str, total: int) -> Iterator[Callable[[], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task(said, total=total)
        yield lambda: progress.advance(bar)


def page(
    found: Study,
    served: Sequence[Served],
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
        verdicts="\n".join(f"- {line}" for line in [*verdicts(found), *service_verdicts(served)]),
        shares=_shares(table).markdown(),
        confidence=_confidence(artifact).markdown(),
        plots="\n\n".join(f"![{plot}]({plot})" for plot in plots),
        figures="\n\n".join(grid.markdown() for grid in grids(found, changes)),
        service="\n\n".join(grid.markdown() for grid in _service_grids(served)),
        rounds=ROUNDS,
        served=SERVED,
    )


def verdicts(found: Study) -> list[str]:
    """One sentence a promise, kept or not, and one a rival."""
    lines = []
    for title, view in views(found):
        worst = max(
            (m["ece"], arm, m["ece_floor"], m["ece_noise_95"])
            for arm, m in view.metrics[found.contender].items()
        )
        lines.append(
            f"{title}: the highest ECE of an arm is {worst[0]:.3f} ({worst[1]}; a perfect one would show "
            f"{worst[2]:.3f} on so few prompts, and one in 20 of them {worst[3]:.3f}); "
            f"{_kept(worst[0] <= _ECE)} (at most {_ECE:.2f})."
        )
        if view.field is not None:
            lines += _field(title, view.field, found.contender)
    return lines


def service_verdicts(served: Sequence[Served]) -> list[str]:
    """The same of the whole service, and how much of what could be known it knows."""
    lines = []
    for title, field, climbed in served:
        lines += _field(f"{title}, the whole service", field, SERVICE)
        share = _of_reachable(field)
        lines.append(
            f"{title}, the whole service: of what an oracle of expected scores is ahead of mixing, "
            f"{share:.2f} is reached over all budgets; {_of_reachable(field, RATES):.2f} by one who is told "
            f"each prompt's family and how its other prompts went. {climbed:.1%} of the plans went on to a "
            "second arm."
        )
    return lines


def _of_reachable(field: Field, name: str = SERVICE) -> float:
    gains = {s.name: s.gain.value or 0.0 for s in field.standings}
    return gains[name] / gains[REACHABLE] if gains[REACHABLE] else float("nan")


def _plain(field: Field, climbed: float) -> dict[str, Any]:
    return {**field_plain(field), "of_expected_scores_oracle": _of_reachable(field), "climbed": climbed}


def _service_grids(served: Sequence[Served]) -> list[Grid]:
    return [
        grid
        for title, field, _ in served
        for grid in frontier_grids(f"{title}, the whole service (charged tokens)", field)
    ]


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
        if name in (REACHABLE, RATES):
            continue
        low, high = ahead.low or 0.0, ahead.high or 0.0
        word = "ahead of" if low > 0 else "behind" if high < 0 else "not to be told from"
        than = "the best mix of fixed arms" if name == MIX else name
        lines.append(f"{title}: the {contender} is {word} {than}: {told(ahead, 3, sign=True)} in area.")
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
