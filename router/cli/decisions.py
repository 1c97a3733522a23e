"""`acr decisions`: the log of decisions, exported to a file or followed line by line."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from router.cli.client import fail
from router.cli.policy_store import store_url
from router.decisions.errors import DecisionLogError
from router.decisions.files import SUFFIXES, to_line, write_decisions
from router.decisions.log import BEGINNING, DecisionLog, Feedback, Logged, feedback_since
from router.decisions.reading import Reader
from router.decisions.record import Decision

app = typer.Typer(help="Look at the log of decisions.", no_args_is_help=True)

TIMEOUT_S = 5.0
POLL_S = 0.5
MAX_COUNT = 100_000
_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}

Ask = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs what the log is asked, to its end."""

LogUrl = Annotated[
    str | None,
    typer.Option(
        "--redis-url", "--redis", help="The store of the log; $REDIS_URL or the local stack's if left out."
    ),
]
OneTenant = Annotated[str | None, typer.Option(help="Only this tenant's decisions.")]


@app.command("export")
def export_command(
    out: Annotated[Path, typer.Option(help="File to write: .jsonl, .jsonl.gz or .parquet.")],
    tenant: OneTenant = None,
    since: Annotated[
        str | None, typer.Option(help="Only from then on: 90m, 12h, 7d, or 2026-01-31[T12:00] (UTC).")
    ] = None,
    redis_url: LogUrl = None,
) -> None:
    """Write the decisions with their feedback to a file, one a row, oldest first."""
    since_ms = since_when(since, time.time())
    if not out.name.endswith(SUFFIXES):
        fail(f"{out} names no format; let it end with {', '.join(SUFFIXES[:-1])} or .parquet")
    with_log(redis_url, lambda ask, log: _export(ask, Reader(log, tenant, since_ms), out))


@app.command("tail")
def tail_command(
    count: Annotated[
        int, typer.Option("--count", "-n", min=0, max=MAX_COUNT, help="Earlier decisions to begin with.")
    ] = 10,
    tenant: OneTenant = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Whole records as JSON lines, as `export` writes them.")
    ] = False,
    seconds: Annotated[float | None, typer.Option(min=0.0, help="Stop after so long.")] = None,
    redis_url: LogUrl = None,
) -> None:
    """Print each decision and each feedback in a line as it comes, until Ctrl-C."""
    try:
        with_log(redis_url, lambda ask, log: ask(_Tail(log, tenant, as_json=as_json).run(count, seconds)))
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def with_log(redis_url: str | None, work: Callable[[Ask, DecisionLog], None]) -> None:
    """Do it with the log and a way to ask it; trouble ends the command in one line."""
    # Imported here: the commands that need no store start in a blink.
    from policies.batches import Batches
    from policies.store import connect
    from router.decisions.redis_log import RedisDecisionLog

    url = store_url(redis_url)
    with asyncio.Runner() as runner:
        try:
            client = connect(
                url, connect_timeout_s=TIMEOUT_S, command_timeout_s=TIMEOUT_S, decode_responses=False
            )
        except ValueError:
            fail("that is no Redis URL; write redis://HOST:PORT/0, rediss:// or unix://")
        try:
            work(runner.run, RedisDecisionLog(Batches(client)))
        except DecisionLogError as error:
            fail(str(error))
        finally:
            runner.run(client.aclose())


def _export(ask: Ask, reader: Reader, out: Path) -> None:
    """A page at a time: the log may be larger than memory."""
    bar = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    judged, explored = 0, 0
    console = Console(stderr=True)
    with Progress(*bar, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("reading the log")

        def decisions() -> Iterator[Decision]:
            nonlocal judged, explored
            while (page := ask(reader.page())) is not None:
                judged += sum(decision.score is not None for decision in page)
                explored += sum(decision.explored for decision in page)
                yield from page
                progress.update(task, completed=reader.seen)

        ask(reader.open())
        progress.update(task, total=reader.total)
        count = write_decisions(out, decisions())
    typer.echo(f"{count:,} decisions in {out}: {judged:,} with feedback, {explored:,} explored")
    if reader.unreadable:
        typer.echo(f"{reader.unreadable:,} entries of the log are no decisions and were left out", err=True)


def since_when(text: str | None, now_s: float) -> int:
    """Unix milliseconds; 0 for the beginning. Ends the command where it is no time."""
    if text is None:
        return 0
    if ago := re.fullmatch(r"(\d{1,9})([smhd])", text):
        return max(0, int((now_s - int(ago[1]) * _UNITS_S[ago[2]]) * 1000))
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        fail(f"--since {text!r} is no time; write 90m, 12h, 7d, or 2026-01-31T12:00 (UTC)")
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0, int(at.timestamp() * 1000))


# -- tail


class _Tail:
    """Prints what is in the log and what comes: decisions, and the feedback that comes for them."""

    def __init__(self, log: DecisionLog, tenant: str | None, *, as_json: bool) -> None:
        self._log = log
        self._tenant = tenant
        self._as_json = as_json

    async def run(self, count: int, seconds: float | None) -> None:
        ends_s = None if seconds is None else time.monotonic() + seconds
        latest = await self._log.last(max(1, count))
        position = latest[-1].position if latest else BEGINNING
        judged, earlier = await feedback_since(self._log, BEGINNING)
        known = {each.decision_id: each.score for each in earlier}
        self._print(latest[max(0, len(latest) - count) :], known)
        while ends_s is None or time.monotonic() < ends_s:
            await asyncio.sleep(POLL_S)
            while page := await self._log.after(position):
                position = page[-1].position
                self._print(page, {})
            judged, came = await feedback_since(self._log, judged)
            for each in came:
                if not self._as_json and self._wanted(each.tenant):
                    typer.echo(_printable(_judged(each)))

    def _print(self, page: list[Logged], known: Mapping[str, float]) -> None:
        for logged in page:
            decision = logged.decision
            if decision is None:
                typer.echo(f"the entry {logged.position} is no decision", err=True)
            elif self._wanted(decision.tenant):
                decision = replace(decision, score=known.get(decision.decision_id, decision.score))
                typer.echo(to_line(decision) if self._as_json else line_of(decision))

    def _wanted(self, tenant: str) -> bool:
        return self._tenant in (None, tenant)


def _judged(feedback: Feedback) -> str:
    return f"{'feedback':<19}  {feedback.decision_id}  {feedback.tenant}  score {feedback.score:.3g}"


def line_of(decision: Decision) -> str:
    """One decision in a line."""
    try:
        at = f"{datetime.fromtimestamp(decision.at_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}"
    except (OverflowError, ValueError, OSError):
        at = f"{decision.at_ms} ms"
    parts = [at, decision.decision_id, decision.tenant]
    parts.append(f"{decision.outcome} {decision.code}" if decision.code else decision.outcome)
    if decision.cache in ("hit", "semantic"):
        parts.append(f"cache {decision.cache}")
    if decision.plan:
        parts.append(" > ".join(rung.arm for rung in decision.rungs) or f"began with {decision.plan[0]}")
        predicted = decision.arms.get(decision.plan[0])
        parts += [f"p {predicted.p:.2f}"] if predicted else []
        drawn = " drawn" if decision.explored else ""
        parts += [f"propensity {decision.propensity:.3g}{drawn}"] if decision.propensity else []
    parts += [f"{decision.tokens:,} tokens"] if decision.tokens else []
    parts += [f"confidence {decision.confidence:.2f}"] if decision.confidence is not None else []
    parts += [f"verified {str(decision.verified).lower()}"] if decision.verified is not None else []
    parts += [f"score {decision.score:.3g}"] if decision.score is not None else []
    return _printable("  ".join(parts))


def _printable(text: str) -> str:
    """Whoever may write to the store could have put anything there."""
    return "".join(each if each.isprintable() else "?" for each in text)
