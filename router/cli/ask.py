"""`acr ask` and `acr explain --live`: a running service's answer, or what it would do and why."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.box import SIMPLE
from rich.table import Column, Table

from policies.amounts import SAID
from router.cli.client import console, fail, post, target

Question = Annotated[str, typer.Argument(help="The question.", show_default=False)]
Model = Annotated[str, typer.Option(help="auto, or a tier: direct, consistency, search.")]
Effort = Annotated[str | None, typer.Option(help="none, minimal, low, medium, high, xhigh or max.")]
Url = Annotated[str | None, typer.Option(help="The service; the one started in this folder if left out.")]
Key = Annotated[str | None, typer.Option(help="API key; $ACR_API_KEY or the local key if left out.")]
Tenant = Annotated[str | None, typer.Option(help="Act as this tenant of the policy.")]


def ask_command(
    question: Question,
    model: Model = "auto",
    effort: Effort = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens a completion.")] = None,
    url: Url = None,
    key: Key = None,
    tenant: Tenant = None,
) -> None:
    """Ask a running service, and show the answer and its receipt."""
    reply = post(target(url, key, tenant), "/v1/chat/completions", _body(question, model, effort, max_tokens))
    console.print(reply["choices"][0]["message"]["content"].strip(), markup=False)
    console.print(_receipt(reply["usage"]))


def explain_live(
    question: str,
    model: str,
    effort: str | None,
    strategy: str | None,
    max_tokens: int | None,
    url: str | None,
    key: str | None,
    tenant: str | None,
    as_json: bool,
) -> None:
    """Show what a running service would do with a question, and why; nothing is spent."""
    body = _body(question, model, effort, max_tokens)
    if strategy is not None:
        body["compute"] = {"strategy": strategy}
    said = post(target(url, key, tenant), "/v1/explain", body)
    if as_json:
        typer.echo(json.dumps(said, indent=2))
        return
    try:
        console.print(
            f"tenant {said['tenant']}, policy {said['policy_version']}, "
            f"classifier {said['classifier_version']}, difficulty {said['difficulty']:.2f}"
        )
        console.print(_arms(said))
        console.print(steps_table(said["plan"]))
        for reason in said["plan"]["reasons"]:
            console.print(f"- {reason}", markup=False, soft_wrap=True)
        console.print(_budgets(said["budgets"]))
    except (KeyError, TypeError):
        fail("the service explained itself in a form this command does not know; are the versions the same?")


def _body(question: str, model: str, effort: str | None, max_tokens: int | None) -> dict[str, Any]:
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": question}]}
    if effort is not None:
        body["reasoning_effort"] = effort
    if max_tokens is not None:
        body["max_completion_tokens"] = max_tokens
    return body


def _receipt(usage: dict[str, Any]) -> Table:
    compute = usage["compute"]
    tokens, samples = compute["tokens"], compute["samples"]
    table = Table(box=SIMPLE, show_header=False, pad_edge=False)
    for name, value in (
        ("tier, strategy", f"{compute['tier']}, {compute['strategy']} ({' > '.join(compute['arms_tried'])})"),
        ("samples", f"{samples['used']} of {samples['planned']}, {samples['cancelled']} cancelled"),
        ("stop reason", compute["stop_reason"]),
        ("confidence", _number(compute["confidence"])),
        ("answer", compute["answer"] or "-"),
        ("prompt tokens", f"{tokens['prompt_computed']} computed, {tokens['prompt_cached']} cached"),
        (
            "completion tokens",
            f"{tokens['completion_kept']} kept, {tokens['completion_discarded']} discarded",
        ),
        ("charged", f"{compute['charged_tokens']} tokens"),
        ("cost", f"${compute['cost_usd']:.8f}, {compute['gpu_seconds']:.4g} device-seconds"),
        ("cache", compute["cache"]),
        ("budget left", _number(compute["budget_remaining"])),
    ):
        table.add_row(name, value)
    table.add_row("why", "\n".join(compute["reasons"]))
    return table


def _arms(said: dict[str, Any]) -> Table:
    chosen = {step["arm"] for step in said["plan"]["steps"]}
    table = Table(
        "",
        "arm",
        Column("p(success)", justify="right"),
        Column("expected tokens", justify="right"),
        Column("95 % of runs below", justify="right"),
        box=SIMPLE,
        pad_edge=False,
    )
    for name, arm in said["arms"].items():
        mark = ">" if name in chosen else ""
        table.add_row(mark, name, f"{arm['p']:.3f}", f"{arm['tokens']:.0f}", f"{arm['tokens_high']:.0f}")
    return table


def steps_table(plan: dict[str, Any]) -> Table:
    """A plan's rungs, as `Plan` has them."""
    table = Table(
        Column("step", justify="right"),
        "arm",
        "samples",
        Column("reserves", justify="right"),
        Column("goes on below", justify="right"),
        box=SIMPLE,
        pad_edge=False,
        title="plan" + (" (degraded)" if plan["degraded"] else ""),
        title_justify="left",
    )
    for number, step in enumerate(plan["steps"], start=1):
        samples = str(step["params"].get("max_samples", 1))
        below = f"{step['escalate_below']:.2f}" if number < len(plan["steps"]) else "-"
        table.add_row(str(number), step["arm"], samples, f"{step['budget_tokens']} tokens", below)
    return table


def _budgets(gauges: list[dict[str, Any]]) -> Table:
    table = Table(
        "budget", "window", "unit", *(Column(n, justify="right") for n in ("used", "held", "limit"))
    )
    table.box, table.pad_edge = SIMPLE, False
    for gauge in gauges:
        unit, scale = SAID[gauge.get("unit", "tokens")]
        used, held, limit = (
            "none" if (n := gauge[name]) is None else f"{n / scale:,g}" if scale > 1 else f"{n:,}"
            for name in ("used", "held", "limit")
        )
        table.add_row(gauge["scope"], gauge["window"], unit, used, held, limit)
    return table


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
