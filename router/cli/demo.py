"""`acr demo`: start everything, ask with the openai client, show what each answer cost, stop everything."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

if TYPE_CHECKING:
    from openai import OpenAI

console = Console()


@dataclass(frozen=True, slots=True)
class DemoQuestion:
    """A question as a product would ask it."""

    label: str
    text: str
    effort: str
    model: str = "auto"
    stream: bool = False


PRODUCT = "Solve the following multiplication: 6 * 7. Give only the result as your final answer."
SUM = "State the final answer to the following arithmetic problem: 7 + 5 ="
DIVISOR = "Find the Greatest Common Divisor (GCD) of these numbers: 12, 18."

QUESTIONS = (
    DemoQuestion("easy", PRODUCT, "low"),
    # Pinned: for so small a model the router finds the dearer tiers worth their tokens on few questions.
    DemoQuestion("harder", SUM, "medium", model="consistency"),
    DemoQuestion("hard", DIVISOR, "medium", model="search", stream=True),
    DemoQuestion("easy again", PRODUCT, "low"),
)
ROWS = (
    "question",
    "asked for",
    "answer",
    "tier",
    "strategy",
    "samples",
    "stop reason",
    "tokens",
    "cost",
    "cache",
    "budget left",
)
ANSWER_CHARS = 120


def demo_command(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 is any free port.")] = 0,
    engine: Annotated[str, typer.Option(help="llamacpp or fake.")] = "llamacpp",
) -> None:
    """Start the whole service on this machine, ask four questions, show what each one cost, and stop."""
    from router.local import local_stack
    from router.profiles import fake_config, local_config
    from router.startup import StartupError

    config = fake_config() if engine == "fake" else local_config()
    began = time.monotonic()
    try:
        with local_stack(config, port=port, say=lambda said: console.print(f"  {said}")) as stack:
            console.print(f"the service is up at {stack.base_url} after {stack.start_s:.0f} s")
            answered = _ask_all(stack.base_url, stack.keys["demo"])
    except StartupError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo("stopped", err=True)
        raise typer.Exit(130) from None
    console.print(answered)
    console.print(
        f"done in {time.monotonic() - began:.0f} s; everything that was started has been stopped. "
        "`make serve` keeps it running."
    )


def _ask_all(base_url: str, key: str) -> Table:
    """The bill: a column a question, so that it can be read on 80 columns."""
    from openai import OpenAI

    columns: list[list[str]] = []
    with OpenAI(base_url=f"{base_url}/v1", api_key=key, timeout=300.0) as client:
        for question in QUESTIONS:
            began = time.monotonic()
            text, usage = _ask(client, question)
            console.print(f"  {question.label}: {time.monotonic() - began:.1f} s")
            columns.append(_column(question, text, usage))
    heads = (Column(question.label, overflow="fold") for question in QUESTIONS)
    caption = "budget left: of the tightest window, here this minute's"
    table = Table("", *heads, show_lines=True, caption=caption, caption_justify="left")
    for name, *values in zip(ROWS, *columns, strict=True):
        table.add_row(name, *values)
    return table


def _ask(client: OpenAI, question: DemoQuestion) -> tuple[str, dict[str, Any]]:
    asked: dict[str, Any] = {
        "model": question.model,
        "messages": [{"role": "user", "content": question.text}],
        "reasoning_effort": question.effort,
        "max_completion_tokens": 256,
        "temperature": 0,
    }
    if not question.stream:
        reply = client.chat.completions.create(**asked)
        return str(reply.choices[0].message.content), _usage(reply.usage)
    pieces: list[str] = []
    usage: Any = None
    for chunk in client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        pieces += [choice.delta.content or "" for choice in chunk.choices]
        usage = chunk.usage or usage
    return "".join(pieces), _usage(usage)


def _usage(usage: Any) -> dict[str, Any]:
    return dict(usage.model_dump())


def _column(question: DemoQuestion, text: str, usage: dict[str, Any]) -> list[str]:
    compute = usage["compute"]
    samples = compute["samples"]
    answer = " ".join(text.split())
    left = compute["budget_remaining"]
    return [
        question.text,
        f"{question.model}, {question.effort}{', streamed' if question.stream else ''}",
        answer if len(answer) <= ANSWER_CHARS else answer[:ANSWER_CHARS] + " ...",
        compute["tier"],
        compute["strategy"],
        f"{samples['used']} of {samples['planned']}",
        compute["stop_reason"],
        f"{usage['total_tokens']:,}",
        f"${compute['cost_usd']:.2g}",
        compute["cache"],
        "unchanged" if left is None else f"{left:,}",
    ]
