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
    from backends.engines.base import Engine

RecordEngine = Literal["offline", "llamacpp", "transformers"]

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
) -> None:
    """Record an outcome table. Stop it at any time; the same command goes on."""
    import policies
    from backends.errors import BackendError
    from policies.errors import PolicyFileError
    from policies.loader import load_policy
    from router.questions import Question, questions
    from router.record import record, recorded_arms

    try:
        chosen = load_policy(policy or Path(policies.__file__).parent / "default.yaml")
        asked = [q for q in questions(per_family, seed) if fnmatch(q.family, families)]
    except PolicyFileError as error:
        console.print(f"[red]{error}", soft_wrap=True)
        raise typer.Exit(2) from None
    except ModuleNotFoundError:
        console.print("[red]reasoning-gym is not installed: pip install 'adaptive-compute-router\\[record]'")
        raise typer.Exit(2) from None
    specs = {name: spec.model_dump() for name, spec in chosen.arms.items() if fnmatch(name, arms)}
    if not asked or not specs:
        console.print("[red]no arm or no family has such a name; see the policy, and router/questions.py")
        raise typer.Exit(2)
    wanted = recorded_arms(specs)
    generator = _engine(engine, model, parallel, threads)
    # With these many questions side by side the batch stays full while single ones come to their end.
    concurrency = 1 if engine == "llamacpp" else max(1, 2 * parallel // samples)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())

    async def run(progress: Progress) -> None:
        bar = progress.add_task("recording", total=len(asked))

        def done(question: Question) -> None:
            progress.update(bar, advance=1, description=question.family)

        await generator.start()
        try:
            await record(
                generator,
                asked,
                wanted,
                out,
                max_tokens=max_tokens,
                seed=seed,
                done=done,
                samples=samples,
                concurrency=concurrency,
            )
        finally:
            await generator.aclose()

    try:
        with Progress(*columns, console=console) as progress:
            asyncio.run(run(progress))
    except BackendError as error:
        console.print(f"[red]{error}", soft_wrap=True)
        raise typer.Exit(2) from None
    console.print(f"{len(asked)} questions x {len(wanted)} arms in {out}")


def _engine(kind: RecordEngine, model: str | None, parallel: int, threads: int | None) -> Engine:
    from backends.engines.build import build_engine
    from backends.engines.config import LlamaCppConfig, TransformersConfig

    if kind == "llamacpp":
        return build_engine(LlamaCppConfig(model_path=model, parallel=min(parallel, 256), threads=threads))
    torch_config = TransformersConfig(model=model, parallel=parallel, threads=threads)
    if kind == "transformers":
        return build_engine(torch_config)
    from backends.engines.transformers.offline import OfflineEngine

    return OfflineEngine(torch_config)
