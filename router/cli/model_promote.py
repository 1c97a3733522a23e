"""`acr model promote` and `rollback`: a classifier that beats the live one takes its place."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from policies.errors import NotSealed, PolicyError, UnknownVersion
from policies.published import Published, shown
from policies.publishing import Publisher
from policies.versions import CLASSIFIERS, Versions
from router.cli.outcome import followed, tell
from router.cli.policy_store import RedisUrl, published, reject, run, who

if TYPE_CHECKING:
    from classifier.artifact import Artifact
    from classifier.evaluation.rivals import Rivalry
    from classifier.packed import Packed

Note = Annotated[str, typer.Option(help="Why, for the history.")]
Wait = Annotated[float, typer.Option(min=0.0, help="How long to wait until replicas follow, in seconds.")]


def promote_command(
    artifact: Annotated[Path, typer.Argument(help="Directory of the classifier, as `acr train` wrote it.")],
    table: Annotated[
        Path | None, typer.Option(help="Outcome table to compare on; what either was trained on is left out.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Promote it whatever the comparison says, or without one.")
    ] = False,
    note: Note = "",
    seed: Annotated[int, typer.Option(min=0, help="Of the intervals.")] = 0,
    wait_s: Wait = 10.0,
    redis_url: RedisUrl = None,
) -> None:
    """Publish a classifier if it beats the live one on prompts that both have not seen (else exit 1)."""
    if table is None and not force:
        typer.echo("name outcomes to compare on (--table), or promote without comparing (--force)", err=True)
        raise typer.Exit(2)
    run(_promote(artifact, table, force, note, seed, wait_s, redis_url))


def rollback_command(
    version: Annotated[
        str | None, typer.Argument(help="A version or its beginning; boot is the app config's classifier.")
    ] = None,
    note: Note = "",
    wait_s: Wait = 10.0,
    redis_url: RedisUrl = None,
) -> None:
    """Bring back the classifier before this one, or the VERSION named; nothing is compared."""
    run(_rollback(version, note, wait_s, redis_url))


async def _rollback(version: str | None, note: str, wait_s: float, redis_url: str | None) -> None:
    from router.model_publishing import ModelPublisher

    async with published(redis_url, CLASSIFIERS) as versions:
        change = await ModelPublisher(versions, who()).rollback(version, note)
        tell(change, versions.shelf, f"{shown(change.after.current)} is live")
        await followed(versions, change, wait_s)


async def _promote(
    directory: Path,
    table: Path | None,
    force: bool,
    note: str,
    seed: int,
    wait_s: float,
    redis_url: str | None,
) -> None:
    from classifier.packed import pack
    from router.live_model import check_arms
    from router.model_publishing import ModelPublisher

    packed = pack(directory)
    async with published(redis_url) as policies, published(redis_url, CLASSIFIERS) as versions:
        publisher = ModelPublisher(versions, who())
        state = await _state(versions, force)
        arms = await _arms_in_force(policies)
        if arms is not None:
            check_arms(packed.artifact, arms)
        live = None
        if packed.version != state.current and not (force and table is None):
            live = await _live(state, versions, force)
        if live is not None:
            if not force:
                _check_losses(packed.artifact, live, arms)
            if table is not None:
                found = _compared(packed, live, table, arms, seed)
                if not (found.better or force):
                    reject(f"{packed.version} stays out: {found.verdict}; --force promotes it all the same")
                note = f"{_in_words(found)}; {note}".strip("; ")
        change = await publisher.promote(packed, state.current, note, force=force)
        tell(change, versions.shelf, f"{packed.version} ({packed.name}) is live")
        await followed(versions, change, wait_s)


async def _state(versions: Versions, force: bool) -> Published:
    try:
        return versions.opened(await versions.raw_state())
    except NotSealed:
        if not force:
            raise
        return Published()


async def _live(state: Published, versions: Versions, force: bool) -> Artifact | None:
    """What decides now: the published one, or the app config's as its replicas told it.

    Ends the command where that is not known; None with `force`.
    """
    from classifier.errors import ArtifactError
    from router.model_publishing import ModelPublisher

    version = state.current
    try:
        if version is None:
            boots = sorted({report.boot for report in await versions.reports()})
            if not boots:
                return _packaged()
            if len(boots) > 1:
                raise UnknownVersion(f"replicas begin with several: {', '.join(boots)}")
            version = boots[0]
        return (await ModelPublisher(versions, "").read(version)).artifact
    except (ArtifactError, NotSealed, UnknownVersion) as error:
        said = f"the live classifier cannot be compared with ({error})"
        if not force:
            reject(f"{said}; --force promotes without comparing")
        typer.echo(said, err=True)
        return None


def _packaged() -> Artifact:
    from classifier.artifact import load
    from classifier.predictor import DEFAULT_ARTIFACT

    typer.echo("no replica runs now: compared with the classifier that comes with the package", err=True)
    return load(DEFAULT_ARTIFACT)


async def _arms_in_force(policies: Versions) -> Collection[str] | None:
    """Of the published policy or the app config's; None where neither can be read."""
    try:
        version = policies.opened(await policies.raw_state()).current
        boots = sorted({report.boot for report in await policies.reports()})
        if version is None and len(boots) == 1:
            version = boots[0]
        return None if version is None else (await Publisher(policies, "").read(version)).policy.arms
    except (NotSealed, UnknownVersion, PolicyError) as error:
        typer.echo(
            f"the policy in force cannot be read, and arms are not compared with it: {error}", err=True
        )
        return None


def _check_losses(candidate: Artifact, live: Artifact, arms: Collection[str] | None) -> None:
    """Raise ArmsDiffer where arms that the live one predicts would only answer to their names."""
    from classifier.errors import ArmsDiffer

    lost = [arm for arm in live.arms if arm not in candidate.arms and (arms is None or arm in arms)]
    if lost:
        raise ArmsDiffer(
            f"{candidate.version} does not know {', '.join(lost)}, which {live.version} predicts and the "
            "policy uses; train it on these arms too, or --force"
        )


def _compared(
    packed: Packed, live: Artifact, table: Path, arms: Collection[str] | None, seed: int
) -> Rivalry:
    """Compare with a bar, and print the figures."""
    from classifier.evaluation.rivals import rivalry, steps
    from classifier.tables import read_table

    rows = read_table(table)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("predicting prompts", total=steps(rows))
        found = rivalry(packed.artifact, live, rows, arms=arms, seed=seed, done=lambda: progress.advance(bar))
    show(found, packed.version, live.version, Console(highlight=False, markup=False))
    return found


def show(found: Rivalry, candidate: str, live: str, console: Console) -> None:
    """Print what was compared on, and every figure."""
    from classifier.evaluation.grids import Grid, figure, told

    if found.seen:
        console.print(f"{found.seen:,} prompts were left out: one of the two was trained on them.")
    rows = tuple(
        (each.name, figure(each.candidate, 4), figure(each.live, 4), told(each.gain, 4, sign=True))
        for each in found.figures
    )
    title = f"{candidate} against {live} on {found.prompts:,} new prompts, {len(found.arms)} arms"
    about = "gain: how much better the new one is, with a 95 % interval over the same prompts."
    console.print(Grid(title, ("", "new", "live", "gain"), rows, about).rich())


def _in_words(found: Rivalry) -> str:
    brier = found.brier
    said = f"Brier {brier.candidate:.4f} for {brier.live:.4f} on {found.prompts} new prompts"
    if found.area is not None:
        said += f", area {found.area.candidate:.4f} for {found.area.live:.4f}"
    return said
