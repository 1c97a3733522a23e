"""`acr policy diff` and `schema`: what two policies differ in; what editors check against."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from policies.differences import Difference, differences
from policies.loader import load_policy
from policies.published import BOOT
from policies.publishing import Publisher
from policies.schema import Policy
from policies.versions import Versions
from router.cli.client import fail
from router.cli.policy_store import RedisUrl, published, run

LIVE = "live"
WHICH = "A file, a version or its beginning, or `live`."

_SIGNS = {"changed": "~", "added": "+", "removed": "-"}
_HASH = re.compile(r"[0-9a-f]{64}")


def diff_command(
    before: Annotated[str, typer.Argument(help=WHICH, show_default=False)],
    after: Annotated[str, typer.Argument(help=WHICH, show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    redis_url: RedisUrl = None,
) -> None:
    """Say field by field how two policies differ in what they mean (exit 1 if they do)."""
    old, new = run(_both(before, after, redis_url), if_refused=2)
    found = differences(old, new)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(each) for each in found], indent=2))
    else:
        for each in found:
            typer.echo(told(each))
        if not found:
            typer.echo(f"no differences: {old.version} and {new.version} mean the same")
    raise typer.Exit(1 if found else 0)


def told(each: Difference) -> str:
    """`~ tenants.demo.quality_target: 0.8 -> 0.9`"""
    line = f"{_SIGNS[each.change]} {each.field}"
    if each.change == "changed":
        line += f": {_value(each.before)} -> {_value(each.after)}"
    else:
        own = each.after if each.change == "added" else each.before
        line += "".join(f"\n    {field}: {_value(value)}" for field, value in own.items())
    return line + (f"  (and so for {', '.join(each.also)})" if each.also else "")


def _value(value: Any) -> str:
    if isinstance(value, str):
        return f"{value[:8]}..." if _HASH.fullmatch(value) else value
    if isinstance(value, list):
        return f"[{', '.join(_value(each) for each in value)}]"
    return "none" if value is None else json.dumps(value)


async def _both(before: str, after: str, redis_url: str | None) -> tuple[Policy, Policy]:
    """The store is asked only where it is needed."""
    if _is_file(before) and _is_file(after):
        return load_policy(before), load_policy(after)
    async with published(redis_url) as versions:
        return await _policy(before, versions), await _policy(after, versions)


async def _policy(name: str, versions: Versions) -> Policy:
    if _is_file(name):
        return load_policy(name)
    if not re.fullmatch(r"[0-9a-f]{4,12}|live|boot", name):
        fail(f"{name} is neither a file nor a version; write a path, a version's first digits, or live")
    version = await resolved(name, versions)
    return (await Publisher(versions, "").read(version)).policy


async def resolved(name: str, versions: Versions) -> str:
    """The version that `live` or `boot` stand for, or the name itself."""
    current = None
    if name == LIVE:
        current = versions.opened(await versions.raw_state()).current
    elif name != BOOT:
        return name
    if current is not None:
        return current
    boots = {report.boot for report in await versions.reports()}
    if len(boots) != 1:
        held = "no replica runs" if not boots else f"replicas have several: {', '.join(sorted(boots))}"
        fail(f"the app config's {versions.shelf.noun} decides, and {held}; name a version")
    return boots.pop()


def _is_file(name: str) -> bool:
    return name not in (LIVE, BOOT) and Path(name).is_file()


def schema_command() -> None:
    """Print the JSON schema of policy files, for editors and for tools that make them."""
    from policies.json_schema import policy_schema_text

    typer.echo(policy_schema_text(), nl=False)
