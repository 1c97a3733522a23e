"""`acr record`: draw every arm on questions with known answers, into an outcome table."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

console = Console()


def record_command(
    out: Annotated[Path, typer.Option(help="Table to append to (JSON lines); what it has is passed over.")],
    per_family: Annotated[int, typer.Option(min=1, max=1000, help="Questions a family.")] = 10,
    max_tokens: Annotated[int, typer.Option(min=16, max=4096, help="Most tokens a completion.")] = 160,
    seed: Annotated[int, typer.Option(min=0, help="Of the questions and of the samples.")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of llama.cpp.")] = None,
    policy: Annotated[Path | None, typer.Option(help="Policy whose arms are recorded.")] = None,
    model: Annotated[Path | None, typer.Option(help="A GGUF file; the default model if left out.")] = None,
) -> None:
    """Record an outcome table with llama.cpp. Stop it at any time; the same command goes on."""
    import policies
    from backends.engines.config import LlamaCppConfig
    from backends.engines.llamacpp import LlamaCppEngine
    from backends.errors import BackendError
    from policies.errors import PolicyFileError
    from policies.loader import load_policy
    from router.questions import Question, questions
    from router.record import record, recorded_arms

    try:
        chosen = load_policy(policy or Path(policies.__file__).parent / "default.yaml")
        asked = questions(per_family, seed)
    except PolicyFileError as error:
        console.print(f"[red]{error}", soft_wrap=True)
        raise typer.Exit(2) from None
    except ModuleNotFoundError:
        console.print("[red]reasoning-gym is not installed: pip install 'adaptive-compute-router\\[record]'")
        raise typer.Exit(2) from None
    arms = recorded_arms({name: spec.model_dump() for name, spec in chosen.arms.items()})
    engine = LlamaCppEngine(LlamaCppConfig(threads=threads, model_path=str(model) if model else None))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())

    async def run(progress: Progress) -> None:
        bar = progress.add_task("recording", total=len(asked))

        def done(question: Question) -> None:
            progress.update(bar, advance=1, description=question.family)

        await engine.start()
        try:
            await record(engine, asked, arms, out, max_tokens=max_tokens, seed=seed, done=done)
        finally:
            await engine.aclose()

    try:
        with Progress(*columns, console=console) as progress:
            asyncio.run(run(progress))
    except BackendError as error:
        console.print(f"[red]{error}", soft_wrap=True)
        raise typer.Exit(2) from None
    console.print(f"{len(asked)} questions x {len(arms)} arms in {out}")
