"""`acr record`: draw every arm on questions with known answers, into an outcome table."""

from __future__ import annotations

import asyncio
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from policies.schema import Policy
    from router.config import AppConfig
    from router.questions import Question
    from router.recorders import Recorder

# As `router.recorders.RecordEngine`, which would be slow to import here.
RecordEngine = Literal["offline", "llamacpp", "transformers"]
_COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())

console = Console()


def record_command(
    out: Annotated[Path, typer.Option(help="Table to append to (JSON lines); what it has is passed over.")],
    per_family: Annotated[int, typer.Option(min=1, max=1000, help="Questions a family and difficulty.")] = 10,
    samples: Annotated[int, typer.Option(min=1, max=200, help="Single samples to list a question.")] = 16,
    arms: Annotated[str, typer.Option(help="Arms to record, as a pattern.")] = "*",
    families: Annotated[str, typer.Option(help="Families to record, as a pattern.")] = "*",
    max_tokens: Annotated[int, typer.Option(min=16, max=4096, help="Most tokens a completion.")] = 128,
    seed: Annotated[int, typer.Option(min=0, help="Of the questions and of the samples.")] = 1,
    engine: Annotated[RecordEngine, typer.Option(help="What generates; offline: large batches.")] = "offline",
    parallel: Annotated[int, typer.Option(min=1, max=1024, help="Sequences decoded together.")] = 96,
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads.")] = None,
    policy: Annotated[Path | None, typer.Option(help="Policy whose arms are recorded.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Hub id, folder or GGUF file, not the default model.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="App configuration (YAML): each arm on its tier's own engine instead.")
    ] = None,
    own: Annotated[
        Path | None,
        typer.Option("--questions", help="Your questions (JSON lines) instead of the families."),
    ] = None,
) -> None:
    """Record an outcome table. Stop it at any time; the same command goes on."""
    from backends.errors import BackendError
    from policies.errors import PolicyFileError
    from router.own_questions import QuestionsError
    from router.record import record, recorded_arms
    from router.recorders import local_recorder, tier_recorders
    from router.startup import StartupError

    try:
        settings = _configuration(config)
        chosen = _policy(policy or (settings.policy_path() if settings else None))
        asked = [q for q in _questions(own, per_family, seed) if fnmatch(q.family, families)]
        specs = {name: spec for name, spec in chosen.arms.items() if fnmatch(name, arms)}
        if not asked or not specs:
            raise StartupError("no arm or no family has such a name; see the policy, and router/questions.py")
        wanted = recorded_arms({name: spec.model_dump() for name, spec in specs.items()})
        if settings is None:
            recorders = [local_recorder(engine, wanted, model, parallel, threads, samples)]
        else:
            tiers = {name: spec.tier for name, spec in specs.items()}
            recorders = tier_recorders(settings, tiers, wanted, samples)
    except (PolicyFileError, QuestionsError, StartupError) as error:
        console.print(f"[red]{error}", soft_wrap=True)
        raise typer.Exit(2) from None
    except ModuleNotFoundError:
        console.print("[red]reasoning-gym is not installed: pip install 'adaptive-compute-router\\[record]'")
        raise typer.Exit(2) from None

    async def run(recorder: Recorder, progress: Progress) -> None:
        bar = progress.add_task("recording", total=len(asked))

        def done(question: Question) -> None:
            progress.update(bar, advance=1, description=question.family)

        await recorder.engine.start()
        try:
            await record(
                recorder.engine,
                asked,
                recorder.arms,
                out,
                max_tokens=max_tokens,
                seed=seed,
                done=done,
                samples=samples,
                concurrency=recorder.concurrency,
            )
        finally:
            await recorder.engine.aclose()

    try:
        with Progress(*_COLUMNS, console=console) as progress:
            for recorder in recorders:
                asyncio.run(run(recorder, progress))
    except BackendError as error:
        console.print(f"[red]{error}", soft_wrap=True)
        raise typer.Exit(2) from None
    console.print(f"{len(asked)} questions x {len(wanted)} arms in {out}")


def _configuration(path: Path | None) -> AppConfig | None:
    from router.profiles import read_config

    return None if path is None else read_config(path)


def _policy(path: Path | None) -> Policy:
    import policies
    from policies.loader import load_policy

    return load_policy(path or Path(policies.__file__).parent / "default.yaml")


def _questions(own: Path | None, per_family: int, seed: int) -> list[Question]:
    from router.own_questions import read_questions
    from router.questions import questions

    return questions(per_family, seed) if own is None else read_questions(own)
