"""What a change of what is published came to: what it said, and which replicas follow."""

from __future__ import annotations

import asyncio
import time

import typer

from policies.changing import Change
from policies.published import shown
from policies.versions import Report, Shelf, Versions

POLL_S = 0.05


def tell(change: Change, shelf: Shelf, said: str) -> None:
    """Two lines, three where a canary ends."""
    if not change.changed:
        typer.echo(f"{said} already; nothing was changed")
        return
    before, after = change.before, change.after
    typer.echo(f"{said} (change {after.number})")
    if before.current != after.current:
        back = "rollback" if after.before[:1] == (before.current,) else f"rollback {shown(before.current)}"
        typer.echo(f"before it: {shown(before.current)}; `{shelf.group} {back}` brings it back")
    if before.canary is not None and after.canary is None and before.canary.version != after.current:
        typer.echo(f"the canary {before.canary.version} has ended")


async def followed(versions: Versions, change: Change, wait_s: float) -> None:
    """Say when every replica that runs has taken the change, or which has not and why (exit 1)."""
    began_s = time.monotonic()
    while True:
        reports = await versions.reports()
        late = [report for report in reports if report.number < change.after.number]
        if not late or time.monotonic() - began_s >= wait_s:
            break
        await asyncio.sleep(POLL_S)
    if not reports:
        typer.echo("no replica runs now; those that start will follow")
        return
    typer.echo(f"{len(reports) - len(late)} of {len(reports)} replicas follow")
    troubled = [report for report in reports if report.trouble or report in late]
    for report in troubled:
        typer.echo(f"{report.replica}: {_trouble(report, versions.shelf)}", err=True)
    if troubled:
        raise typer.Exit(1)


def _trouble(report: Report, shelf: Shelf) -> str:
    return report.trouble or f"has not taken it yet; look with `{shelf.command}`"
