"""`acr policy`: check, compare and publish policies, and see which one decides."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table

from policies.amounts import in_words
from policies.errors import PolicyFileError
from policies.loader import load_policy
from policies.schema import Policy, TenantPolicy
from router.cli.policy_diff import diff_command, schema_command
from router.cli.policy_look import list_command, shadow_command, show_command, watch_command
from router.cli.policy_publish import promote_command, push_command, rollback_command
from router.cli.policy_store import refused

app = typer.Typer(help="Check, compare and publish policies.", no_args_is_help=True)
app.command("diff")(diff_command)
app.command("push")(push_command)
app.command("list")(list_command)
app.command("show")(show_command)
app.command("rollback")(rollback_command)
app.command("promote")(promote_command)
app.command("shadow")(shadow_command)
app.command("watch")(watch_command)
app.command("schema")(schema_command)


@app.command()
def check(file: Annotated[Path, typer.Argument(help="The policy file (YAML).", show_default=False)]) -> None:
    """Say what a policy file means, or in one line why it is refused (exit 1)."""
    try:
        policy = load_policy(file)
    except PolicyFileError as error:
        refused(error)
    typer.echo(f"OK {file}: policy {policy.name}, version {policy.version}")
    console = Console()
    console.print(_tenants(policy))
    console.print(_arms(policy))


def _tenants(policy: Policy) -> Table:
    whole = [
        Column(name, no_wrap=True) for name in ("tenant", "tiers", "effort", "target", "budgets", "limits")
    ]
    table = Table(*whole, box=SIMPLE, pad_edge=False)
    for tenant in policy.tenants.values():
        table.add_row(
            f"{tenant.name}\n{len(tenant.keys)} keys",
            "\n".join(tenant.tiers),
            f"{tenant.default_effort}\nmax {tenant.max_effort}",
            f"{tenant.quality_target:g}",
            _budgets(tenant),
            _limits(tenant),
        )
    return table


def _budgets(tenant: TenantPolicy) -> str:
    limits = [
        (window, unit, limit)
        for window, units in tenant.budgets.limits().items()
        for unit, limit in units.items()
    ]
    return "\n".join(_budget(*limit) for limit in limits) or "none"


def _budget(window: str, unit: str, limit: int) -> str:
    return f"{limit:,} a {window}" if unit == "tokens" else f"{in_words(unit, limit)} a {window}"


def _limits(tenant: TenantPolicy) -> str:
    limits = tenant.limits
    named = [
        (limits.requests_per_minute, " req/min"),
        (limits.tokens_per_minute, " tok/min"),
        (limits.concurrency, " at once"),
    ]
    lines = [f"{limit:,}{name}" for limit, name in named if limit is not None]
    own = sum(key.limits is not None for key in tenant.keys)
    lines += [f"of their own: {own} keys"] if own else []
    window = tenant.tier_share.window
    lines += [f"{tier} {share:.0%} of a {window}" for tier, share in tenant.tier_share.capped().items()]
    lines += [f"paced over the {tenant.pacing.window}"] if tenant.pacing else []
    rate = tenant.exploration.rate
    lines += [f"explores {rate:.1%} of requests"] if rate else []
    lines += ["prompts are logged"] if tenant.log_prompts else []
    return "\n".join(lines) or "none"


def _arms(policy: Policy) -> Table:
    table = Table("arm", "strategy", "samples", "temperature", "thinks", box=SIMPLE)
    for name, arm in policy.arms.items():
        thinks = "yes" if arm.think else "no"
        table.add_row(name, arm.strategy, str(arm.replies), f"{arm.temperature:g}", thinks)
    return table
