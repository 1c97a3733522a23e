"""`acr explain`: what a configuration and a policy come to, and what a question would get and why."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE
from rich.table import Column, Table

from router.cli.ask import Effort, Key, Model, Tenant, Url, explain_live, steps_table
from router.cli.client import console, fail

if TYPE_CHECKING:
    from backends.cost import Cost
    from router.explain import ArmSheet, Explanation, TierSheet

Question = Annotated[str | None, typer.Argument(help="A question to plan for.", show_default=False)]
Config = Annotated[Path | None, typer.Option(help="An app configuration (YAML); the local one if left out.")]
PolicyFile = Annotated[Path | None, typer.Option(help="A policy file; the configuration's if left out.")]
Strategy = Annotated[str | None, typer.Option(help="Pin a strategy: direct, cot, self_consistency, ...")]
PromptTokens = Annotated[
    int | None, typer.Option(min=1, help="The prompt's size: 400, or the question's, if left out.")
]
MaxTokens = Annotated[
    int | None,
    typer.Option("--max-completion-tokens", "--max-tokens", min=1, help="The tenant's default if left out."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Live = Annotated[
    bool, typer.Option("--live", help="Ask the running service, which knows what the budgets have left.")
]

NUMBERS = {"justify": "right", "no_wrap": True}


def explain_command(
    question: Question = None,
    config: Config = None,
    policy: PolicyFile = None,
    tenant: Tenant = None,
    model: Model = "auto",
    effort: Effort = None,
    strategy: Strategy = None,
    prompt_tokens: PromptTokens = None,
    max_completion_tokens: MaxTokens = None,
    as_json: Json = False,
    live: Live = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """Show tiers, arms and what they may cost; for a question the plan and why. Nothing runs or is spent."""
    if live or url is not None or key is not None:
        if question is None or config is not None or policy is not None or prompt_tokens is not None:
            fail("--live takes a question, and neither --config, --policy nor --prompt-tokens")
        explain_live(question, model, effort, strategy, max_completion_tokens, url, key, tenant, as_json)
        return
    said = _explained(
        question, config, policy, tenant, model, effort, strategy, prompt_tokens, max_completion_tokens
    )
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(said), indent=2, default=str))
        return
    _print(said, question)


def _explained(
    question: str | None,
    config: Path | None,
    policy: Path | None,
    tenant: str | None,
    model: str,
    effort: str | None,
    strategy: str | None,
    prompt_tokens: int | None,
    max_completion_tokens: int | None,
) -> Explanation:
    """Ends the command with one line for anything that cannot be read."""
    # Imported here, so that the other commands start in a blink.
    from classifier.errors import ArtifactError
    from policies.arm_spec import STRATEGIES, TIERS
    from policies.errors import PolicyFileError
    from policies.loader import load_policy
    from policies.schema import EFFORTS
    from router.explain import Wish, explain
    from router.profiles import local_config, read_config
    from router.startup import StartupError

    for name, value, known in (
        ("model", model, ("auto", *TIERS)),
        ("effort", effort, EFFORTS),
        ("strategy", strategy, STRATEGIES),
    ):
        if value is not None and value not in known:
            fail(f"there is no {name} {value}; use one of {', '.join(known)}")
    try:
        app = local_config() if config is None else read_config(config)
        rules = load_policy(app.policy_path() if policy is None else policy)
    except (StartupError, PolicyFileError) as error:
        fail(str(error))
    named = tenant or ("demo" if "demo" in rules.tenants else next(iter(rules.tenants)))
    if named not in rules.tenants:
        fail(f"there is no tenant {named} in the policy {rules.name}; use one of {', '.join(rules.tenants)}")
    wish = Wish(
        question=question,
        tier=None if model == "auto" else model,
        effort=effort,
        strategy=strategy,
        prompt_tokens=prompt_tokens,
        max_completion_tokens=max_completion_tokens,
    )
    try:
        return asyncio.run(explain(app, rules, rules.tenants[named], wish))
    except ArtifactError as error:
        fail(str(error))


def _print(said: Explanation, question: str | None) -> None:
    console.print(
        f"policy {said.policy} ({said.policy_version}), tenant {said.tenant}; a prompt of "
        f"{said.prompt_tokens:,} tokens, completions of at most {said.max_completion_tokens:,}"
    )
    console.print(_tiers(said))
    console.print(_arms(said))
    console.print(_costs(said))
    console.print(
        "At most and held: tokens processed and generated, prompts of every call included. FLOPs, keys and "
        "values, device-seconds and money are those of the most, each sequence decoded alone and nothing "
        "cached: batches and prefix caches only save."
        + ("" if question is not None else " Without a question nothing is predicted, so the most is held.")
    )
    for arm in said.arms:
        if arm.problem is not None:
            console.print(f"{arm.name} cannot run: {arm.problem}", markup=False)
    if question is not None:
        _print_plan(said)


def _print_plan(said: Explanation) -> None:
    console.print(f"\nclassifier {said.classifier}, difficulty {said.difficulty:.2f}")
    console.print(_predictions(said))
    if said.plan is None:
        console.print(f"No plan: {said.refusal}", markup=False)
        return
    console.print(steps_table(dataclasses.asdict(said.plan)))
    if said.plan.hopeless:
        console.print("Hopeless: nothing dearer is predicted to be worth its cost.")
    for reason in said.plan.reasons:
        console.print(f"- {reason}", markup=False, soft_wrap=True)


def _table(*columns: Column | str, title: str) -> Table:
    return Table(*columns, box=SIMPLE, pad_edge=False, title=title, title_justify="left")


def _tiers(said: Explanation) -> Table:
    table = _table(Column("tier", no_wrap=True), "engine", "settings", title="tiers")
    shown: list[TierSheet] = []
    for tier in said.tiers:
        same = next((other.name for other in shown if other.info.settings == tier.info.settings), None)
        told = "\n".join(f"{name}: {value}" for name, value in tier.info.settings.items()) or "-"
        table.add_row(tier.name, _engine(tier), f"as {same}" if same and tier.info.settings else told)
        shown.append(tier)
    return table


def _engine(tier: TierSheet) -> str:
    sheet = tier.hardware
    bandwidth, peak = _si(sheet.bandwidth_bytes_per_s, "B/s"), _si(sheet.peak_flops_per_s, "FLOP/s")
    return "\n".join(
        (
            f"{tier.engine}: {tier.info.model}",
            f"{tier.info.parallel} at once, {tier.info.context_tokens:,} tokens each",
            f"on {sheet.name}: {_si(sheet.memory_bytes, 'B')}, {bandwidth},",
            f"{peak}, ${sheet.usd_per_hour:.2f} an hour",
            f"priced as {tier.shape.name}",
        )
    )


def _arms(said: Explanation) -> Table:
    table = _table(Column("arm", no_wrap=True), Column("strategy", no_wrap=True), "parameters", title="arms")
    for arm in said.arms:
        told = ", ".join(f"{name} {_plain(value)}" for name, value in arm.params.items())
        table.add_row(arm.name, arm.strategy, told)
    return table


def _costs(said: Explanation) -> Table:
    names = ("at most", "held", "FLOPs", "KV", "device-s", "USD")
    table = _table("arm", *(Column(name, justify="right", no_wrap=True) for name in names), title="costs")
    for arm in said.arms:
        table.add_row(arm.name, f"{arm.most_tokens:,}", f"{arm.held_tokens:,}", *_priced(arm.most))
    return table


def _predictions(said: Explanation) -> Table:
    chosen = {step.arm for step in said.plan.steps} if said.plan else set()
    names = ("p(success)", "expected tokens", "device-s", "USD")
    table = _table("", "arm", *(Column(name, justify="right") for name in names), title="predictions")
    for arm in said.arms:
        table.add_row(">" if arm.name in chosen else "", arm.name, *_predicted(arm))
    return table


def _predicted(arm: ArmSheet) -> tuple[str, ...]:
    if arm.p is None or arm.expected_tokens is None:
        return ("not learned", "", "", "")
    return (f"{arm.p:.3f}", f"{arm.expected_tokens:,.0f}", *_priced(arm.expected)[2:])


def _priced(cost: Cost | None) -> tuple[str, ...]:
    if cost is None:
        return ("-", "-", "-", "-")
    return (_si(cost.flops, ""), _si(cost.kv_bytes, "B"), f"{cost.gpu_seconds:.3g}", f"{cost.usd:.6f}")


def _si(value: float, unit: str) -> str:
    """Three digits with a prefix: 1.23 TFLOP/s."""
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
