"""`acr policy list`, `show`, `shadow` and `watch`: what is published, and what each replica runs."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.box import SIMPLE
from rich.table import Column, Table

from policies.errors import PolicyError
from policies.published import Entry, Published, shown
from policies.publishing import Publisher
from policies.versions import Report, Tally, Versions
from router.cli.client import console, fail
from router.cli.policy_diff import resolved
from router.cli.policy_store import RedisUrl, published, run, who

POLL_S = 0.5
TALLY_EVERY_S = 10.0

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def list_command(
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Changes to show.")] = 20,
    as_json: Json = False,
    redis_url: RedisUrl = None,
) -> None:
    """Show what is current, canary and shadow, the history, and what each replica runs."""
    run(_list(count, as_json, redis_url))


def show_command(
    version: Annotated[str, typer.Argument(help="A version or its beginning, `live` or `boot`.")] = "live",
    redis_url: RedisUrl = None,
) -> None:
    """Print a published policy as it was pushed."""
    run(_show(version, redis_url))


def shadow_command(
    stop: Annotated[bool, typer.Option("--stop", help="End the shadow.")] = False,
    as_json: Json = False,
    redis_url: RedisUrl = None,
) -> None:
    """Show what the shadow policy would have done, beside what was planned."""
    run(_shadow(stop, as_json, redis_url))


def watch_command(
    seconds: Annotated[float | None, typer.Option(min=0.0, help="Stop after so long.")] = None,
    redis_url: RedisUrl = None,
) -> None:
    """Follow what is published and which version each replica runs, until Ctrl-C."""
    try:
        run(_watch(seconds, redis_url))
    except typer.Exit as ended:
        raise typer.Exit(0 if ended.exit_code == 130 else ended.exit_code) from None


async def _list(count: int, as_json: bool, redis_url: str | None) -> None:
    async with published(redis_url) as versions:
        state = versions.opened(await versions.raw_state())
        entries, reports = await versions.history(), await versions.reports()
    if as_json:
        told = {
            "published": state.model_dump(),
            "history": [entry.model_dump() for entry in entries[:count]],
            "replicas": [report.model_dump() for report in reports],
        }
        typer.echo(json.dumps(told, indent=2))
        return
    for line in described(state, reports):
        typer.echo(line)
    if entries:
        console.print(_history(entries, count, state))
    for report in reports:
        typer.echo(replica_line(report))
    if not reports:
        typer.echo("no replica runs now")


def described(state: Published, reports: list[Report]) -> list[str]:
    """What decides, and why it does."""
    if state.current is not None:
        lines = [f"current: {state.current}"]
    else:
        boots = ", ".join(sorted({report.boot for report in reports})) or "of a service that does not run now"
        why = "nothing was published" if state.number == 0 else "rolled back to it"
        lines = [f"current: boot, the app config's policy ({boots}): {why}"]
    if state.canary is not None:
        lines.append(f"canary: {_canary(state)}")
    if state.shadow is not None:
        lines.append(f"shadow: {state.shadow}")
    return lines


def _canary(state: Published) -> str:
    canary = state.canary
    if canary is None:
        return "none"
    return f"{canary.version} for {canary.percent:g} % of {canary.tenant or 'all'} keys"


def replica_line(report: Report) -> str:
    roles = [f"replica {report.replica}: {report.current}"]
    roles += [f"canary {report.canary}"] if report.canary else []
    roles += [f"shadow {report.shadow}"] if report.shadow else []
    roles += [f"{len(report.left_out)} arms left out"] if report.left_out else []
    return ", ".join(roles) + (f"; {report.trouble}" if report.trouble else "")


def _history(entries: list[Entry], count: int, state: Published) -> Table:
    columns = ("", "version", "name", "when (UTC)", "what", "by", "note")
    whole = ("", "version", "when (UTC)")
    table = Table(*(Column(name, no_wrap=name in whole, overflow="fold") for name in columns), box=SIMPLE)
    names = {entry.version: entry.name for entry in reversed(entries) if entry.name}
    canary = state.canary.version if state.canary else ""
    marks = {state.shadow: "shadow", canary: "canary", state.current: "current"}
    for entry in entries[:count]:
        what = entry.action if entry.percent is None else f"{entry.action} {entry.percent:g} %"
        what += f" of {entry.tenant}" if entry.tenant else ""
        at = datetime.fromtimestamp(entry.at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
        mark = marks.pop(entry.version, "")  # at its latest line only
        name = names.get(entry.version, "")
        table.add_row(mark, shown(entry.version), name, at, what, entry.by, entry.note)
    return table


async def _show(version: str, redis_url: str | None) -> None:
    async with published(redis_url) as versions:
        document = await Publisher(versions, "").text(await resolved(version, versions))
    typer.echo(document, nl=not document.endswith("\n"))


async def _shadow(stop: bool, as_json: bool, redis_url: str | None) -> None:
    async with published(redis_url) as versions:
        if stop:
            change = await Publisher(versions, who()).end_shadow()
            typer.echo(f"the shadow {change.before.shadow} has ended" if change.changed else "there was none")
            return
        state = versions.opened(await versions.raw_state())
        if state.shadow is None:
            fail("there is no shadow; push one with `acr policy push FILE --shadow`")
        tally = await versions.tallied(state.shadow)
    if as_json:
        typer.echo(json.dumps({"version": state.shadow, **tally.model_dump()}, indent=2))
    else:
        typer.echo(tally_line(state.shadow, tally))


def tally_line(version: str, tally: Tally) -> str:
    if not tally.planned:
        return f"shadow {version}: no request planned yet, {tally.errors} errors"
    share = tally.differ / tally.planned
    return (
        f"shadow {version}: {tally.planned:,} requests planned, {share:.1%} would begin "
        f"with another arm ({tally.refused:,} be refused), {tally.shadow_tokens:,} tokens planned instead of "
        f"{tally.tokens:,}, {tally.errors:,} errors"
    )


async def _watch(seconds: float | None, redis_url: str | None) -> None:
    ends_s = None if seconds is None else time.monotonic() + seconds
    async with published(redis_url) as versions:
        watched = _Watched(versions)
        while True:
            for line in await watched.news():
                typer.echo(f"{datetime.now(UTC):%H:%M:%S} {line}")
            if ends_s is not None and time.monotonic() >= ends_s:
                return
            await asyncio.sleep(POLL_S)


class _Watched:
    """What was said last, so that only news are."""

    def __init__(self, versions: Versions) -> None:
        self._versions = versions
        self._state: list[str] = []
        self._replicas: dict[str, str] = {}
        self._trouble = ""
        self._tally = Tally()
        self._tally_at_s = 0.0

    async def news(self) -> list[str]:
        """Lines about what changed since the last call; store trouble is one of them."""
        try:
            lines = await self._look()
        except PolicyError as error:
            lines = [] if str(error) == self._trouble else [str(error)]
            self._trouble = str(error)
            return lines
        if self._trouble:
            lines.insert(0, "the store answers again")
            self._trouble = ""
        return lines

    async def _look(self) -> list[str]:
        state = self._versions.opened(await self._versions.raw_state())
        reports = await self._versions.reports()
        said = described(state, reports)
        lines = [line for line in said if line not in self._state]
        lines += [f"ended: {line}" for line in self._state if line.partition(":")[0] not in _roles(said)]
        self._state = said
        replicas = {report.replica: replica_line(report) for report in reports}
        lines += [line for name, line in replicas.items() if self._replicas.get(name) != line]
        lines += [f"replica {name}: gone" for name in self._replicas if name not in replicas]
        self._replicas = replicas
        if state.shadow is not None and time.monotonic() >= self._tally_at_s:
            self._tally_at_s = time.monotonic() + TALLY_EVERY_S
            tally = await self._versions.tallied(state.shadow)
            if tally != self._tally:
                lines.append(tally_line(state.shadow, tally))
            self._tally = tally
        return lines


def _roles(lines: list[str]) -> set[str]:
    return {line.partition(":")[0] for line in lines}
