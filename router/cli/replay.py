"""`acr replay`: what a policy that was never live would have come to, from a log or an outcome table."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from router.cli.client import fail

if TYPE_CHECKING:
    from classifier.evaluation.grids import Grid
    from policies.plan import Ask
    from policies.schema import Policy

Found = tuple[dict[str, Any], "list[Grid]"]


def replay_command(
    log: Annotated[Path, typer.Option(help="Exported decisions, or an outcome table.")],
    policy: Annotated[Path, typer.Option(help="The policy to try (YAML).")],
    tenant: Annotated[
        str | None, typer.Option(help="This tenant's decisions alone; of a table: whose settings count.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON alone.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Directory for replay.json, and of a log replay.png.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the intervals, and of a table's parts.")] = 0,
    clip: Annotated[
        float | None, typer.Option(min=1.0, help="Bound on a log's weights: less noise, some bias.")
    ] = None,
    arm: Annotated[
        list[str] | None, typer.Option(help="POLICY_ARM=TABLE_ARM, where a table calls an arm otherwise.")
    ] = None,
    classifier: Annotated[
        Path | None, typer.Option(help="Directory of the classifier for a table; by default the shipped one.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Configuration with the tiers' prices for a table.")
    ] = None,
    effort: Annotated[str | None, typer.Option(help="What every request of a table asks for.")] = None,
    max_completion_tokens: Annotated[
        int | None, typer.Option(min=1, help="What every request of a table asks for at most.")
    ] = None,
) -> None:
    """Estimate what a policy would come to. Ends with 0: done, 1: the log cannot say, 2: bad input."""
    from classifier.errors import ClassifierError
    from policies.errors import PolicyFileError
    from policies.loader import load_policy
    from policies.plan import Ask
    from policies.schema import EFFORTS
    from router.decisions.errors import DecisionLogError
    from router.replay.errors import ReplayError
    from router.replay.kinds import kind_of
    from router.startup import StartupError

    if effort is not None and effort not in EFFORTS:
        fail(f"there is no effort {effort}; use one of {', '.join(EFFORTS)}")
    try:
        rules = load_policy(policy)
        if kind_of(log) == "log":
            plain, grids = _of_log(log, rules, tenant, seed, clip, out)
        else:
            ask = Ask(prompt_tokens=0, effort=effort, max_completion_tokens=max_completion_tokens)
            plain, grids = _of_table(log, rules, tenant, seed, ask, arm or [], classifier, config)
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            (out / "replay.json").write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")
    except (ClassifierError, DecisionLogError, PolicyFileError, ReplayError, StartupError) as error:
        fail(str(error))
    except OSError as error:
        fail(f"{out} cannot be written: {error.strerror}; choose another directory")
    if as_json:
        typer.echo(json.dumps(plain, indent=2))
    else:
        _show(plain, grids, Console(highlight=False, markup=False))
    if not plain["supported"]:
        raise typer.Exit(1)


def _of_log(
    path: Path, policy: Policy, tenant: str | None, seed: int, clip: float | None, out: Path | None
) -> Found:
    from router.decisions.files import read_decisions
    from router.replay.log import replay_log
    from router.replay.plots import draw
    from router.replay.report import log_grids, log_plain
    from router.replay.study import study_log

    with _progress("decisions, each read twice", None) as done:
        replayed = replay_log(lambda: read_decisions(path), policy, tenant=tenant, done=done)
    study = study_log(replayed, seed=seed, clip=clip)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        draw(study, out / "replay.png")
    return log_plain(policy, replayed, study), log_grids(replayed, study)


def _of_table(
    path: Path,
    policy: Policy,
    tenant: str | None,
    seed: int,
    ask: Ask,
    arms: list[str],
    classifier: Path | None,
    config: Path | None,
) -> Found:
    from classifier.artifact import load
    from classifier.predictor import DEFAULT_ARTIFACT
    from router.holding import tariffs
    from router.profiles import local_config, read_config
    from router.replay.beliefs import beliefs, folds
    from router.replay.recording import arms_named, read_recording
    from router.replay.report import table_grids, table_plain
    from router.replay.table import replay_table

    named = tenant or ("demo" if "demo" in policy.tenants else next(iter(policy.tenants)))
    if named not in policy.tenants:
        fail(
            f"there is no tenant {named} in the policy {policy.name}; use one of {', '.join(policy.tenants)}"
        )
    prices = tariffs(local_config() if config is None else read_config(config))
    artifact = load(DEFAULT_ARTIFACT if classifier is None else classifier)
    recorded = read_recording(path, policy, arms_named(arms))
    with _progress("predictions, part by part", folds(recorded.table, seed)) as done:
        believed = beliefs(recorded.table, artifact, seed, done)
    with _progress("prompts", len(believed.at)) as done:
        replayed = replay_table(
            policy, recorded, believed, tenant=policy.tenants[named], ask=ask, tariffs=prices, done=done
        )
    plain = table_plain(policy, named, recorded, replayed, believed.note, seed)
    return plain, table_grids(plain)


@contextmanager
def _progress(what: str, total: int | None) -> Iterator[Callable[[], None]]:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task(what, total=total)
        yield lambda: shown.advance(task)


def _show(plain: dict[str, Any], grids: list[Grid], console: Console) -> None:
    console.print(f"policy {plain['policy']} ({plain['policy_version']}): ", end="")
    console.print(plain.get("verdict") or f"replayed on {plain['prompts']:,} prompts", soft_wrap=True)
    for note in plain["notes"]:
        console.print(f"- {note}", soft_wrap=True)
    for grid in grids:
        if grid.rows:
            console.print()
            console.print(grid.rich())
