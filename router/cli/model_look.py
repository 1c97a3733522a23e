"""`acr model list` and `show`: which classifiers are kept, which one decides, and their figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table

from policies.errors import NotSealed, UnknownVersion
from policies.published import BOOT, Entry, Published, shown
from policies.versions import CLASSIFIERS, Report, Versions
from router.cli.client import console
from router.cli.policy_diff import LIVE, resolved
from router.cli.policy_look import replica_line
from router.cli.policy_store import RedisUrl, published, run

if TYPE_CHECKING:
    from classifier.packed import Packed

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True, slots=True)
class _Kept:
    """A version of the store; `packed` is None where this release cannot load it, `problem` says why."""

    version: str
    packed: Packed | None
    problem: str = ""


def list_command(as_json: Json = False, redis_url: RedisUrl = None) -> None:
    """Show which classifier decides and since when, those that are kept, and what each replica runs."""
    run(_list(as_json, redis_url))


def show_command(
    version: Annotated[str, typer.Argument(help="A version or its beginning, `live` or `boot`.")] = LIVE,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole card as JSON.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write it as a directory, too: for `acr drift`, say.")
    ] = None,
    redis_url: RedisUrl = None,
) -> None:
    """Show a classifier's card: its arms, what it was trained on, its held-out figures."""
    run(_show(version, as_json, out, redis_url))


async def _list(as_json: bool, redis_url: str | None) -> None:
    async with published(redis_url, CLASSIFIERS) as versions:
        state = versions.opened(await versions.raw_state())
        entries, reports = await versions.history(), await versions.reports()
        kept = [await _kept(version, versions) for version in await versions.known()]
    if as_json:
        told = {
            "published": state.model_dump(include={"number", "at_ms", "current", "before"}),
            "versions": [_plain(each) for each in kept],
            "history": [entry.model_dump(exclude={"percent", "tenant"}) for entry in entries],
            "replicas": [report.model_dump(include=_REPORTED) for report in reports],
        }
        typer.echo(json.dumps(told, indent=2))
        return
    typer.echo(_live_line(state, reports))
    if kept:
        console.print(_table(kept, entries, state, reports))
    for report in reports:
        typer.echo(replica_line(report))
    if not reports:
        typer.echo("no replica runs now")


_REPORTED = {"replica", "number", "boot", "current", "trouble"}


def _live_line(state: Published, reports: list[Report]) -> str:
    if state.current is not None:
        return f"live: {state.current} since {_when(state.at_ms)} UTC (change {state.number})"
    boots = ", ".join(sorted({report.boot for report in reports})) or "of a service that does not run now"
    why = "nothing was promoted" if state.number == 0 else f"rolled back to it at {_when(state.at_ms)} UTC"
    return f"live: boot, the app config's classifier ({boots}): {why}"


async def _kept(version: str, versions: Versions) -> _Kept:
    from classifier.errors import ArtifactError
    from classifier.packed import unpack

    try:
        return _Kept(version, unpack(await versions.document(version), version))
    except (ArtifactError, NotSealed, UnknownVersion) as error:
        return _Kept(version, None, str(error))


def _table(kept: list[_Kept], entries: list[Entry], state: Published, reports: list[Report]) -> Table:
    columns = ("", "version", "right", "Brier", "ECE", "made live (UTC)", "what, by whom, why")
    whole = columns[:-1]
    table = Table(*(Column(name, no_wrap=name in whole, overflow="fold") for name in columns), box=SIMPLE)
    table.caption = "right, Brier, ECE: means over arms on the prompts held out when it was trained"
    table.caption_justify = "left"
    boots = {report.boot for report in reports}
    last = {entry.version: entry for entry in reversed(entries)}
    order = {entry.version: place for place, entry in reversed(list(enumerate(entries)))}
    for each in sorted(kept, key=lambda each: order.get(each.version, len(entries))):
        entry = last.get(each.version)
        mark = "live" if each.version == (state.current or "") else BOOT if each.version in boots else ""
        if state.current is None and mark == BOOT:
            mark = "live, boot"
        at, by, note = (_when(entry.at_ms), entry.by, entry.note) if entry else ("", "", "")
        name = each.packed.name if each.packed else each.problem
        told = ", ".join(part for part in (name, by, note) if part)
        table.add_row(mark, each.version, *_means(each.packed), at, told)
    return table


def _means(packed: Packed | None) -> list[str]:
    from classifier.evaluation.grids import figure

    arms = figures(packed.artifact.card) if packed else {}
    told = []
    for name in ("base_rate", "brier", "ece"):
        values = [each[name] for each in arms.values() if isinstance(each.get(name), int | float)]
        told.append(figure(sum(values) / len(values) if values else None))
    return told


def figures(card: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Held-out figures by arm, those after a calibration where there was one; empty where a card has none."""
    metrics = card.get("metrics")
    held = metrics.get("held_out_items") if isinstance(metrics, dict) else None
    found = {arm: dict(each) for arm, each in held.items()} if isinstance(held, dict) else {}
    calibrated = card.get("calibrated")
    again = calibrated.get("metrics") if isinstance(calibrated, dict) else None
    for arm, each in again.items() if isinstance(again, dict) else ():
        found.setdefault(arm, {}).update(
            items=each.get("items"), brier=each.get("brier_after"), ece=each.get("ece_after")
        )
    return found


def _plain(each: _Kept) -> dict[str, Any]:
    if each.packed is None:
        return {"version": each.version, "problem": each.problem}
    card = each.packed.artifact.card
    return {
        "version": each.version,
        "name": each.packed.name,
        "arms": each.packed.artifact.arms,
        "figures": figures(card),
    }


async def _show(version: str, as_json: bool, out: Path | None, redis_url: str | None) -> None:
    from classifier.packed import write_packed
    from router.model_publishing import ModelPublisher

    async with published(redis_url, CLASSIFIERS) as versions:
        packed = await ModelPublisher(versions, "").read(await resolved(version, versions))
    if out is not None:
        write_packed(packed, out)
    if as_json:
        typer.echo(json.dumps({"version": packed.version, **packed.artifact.card}, indent=2))
        return
    _print_card(packed, Console(highlight=False, markup=False))
    if out is not None:
        typer.echo(f"written: {out}")


def _print_card(packed: Packed, out: Console) -> None:
    from classifier.evaluation.grids import Grid, figure

    card = packed.artifact.card
    counts = card.get("counts")
    trained = f"{counts.get('items')} prompts" if isinstance(counts, dict) else "unknown prompts"
    out.print(f"classifier {shown(packed.version)}: trained on {trained}, {card.get('date', 'no date')}")
    calibrated = card.get("calibrated")
    if isinstance(calibrated, dict):
        out.print(f"calibrated again from {calibrated.get('from')}, {calibrated.get('date')}")
    known = figures(card)
    rows = tuple(
        (
            arm,
            str(known.get(arm, {}).get("items", "-")),
            *(figure(known.get(arm, {}).get(name)) for name in ("base_rate", "brier", "ece", "auc")),
        )
        for arm in packed.artifact.arms
    )
    out.print(Grid("Held-out prompts", ("arm", "prompts", "right", "Brier", "ECE", "AUC"), rows).rich())


def _when(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
