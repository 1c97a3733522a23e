"""`acr policy push`, `rollback` and `promote`: change what decides, and see it become live."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from policies.keys import LOCAL_KEY_ID
from policies.loader import parse_policy, read_text
from policies.published import Canary, Published, shown
from policies.publishing import Document, Publisher
from policies.schema import Policy
from router.cli.client import fail
from router.cli.outcome import followed, tell
from router.cli.policy_store import RedisUrl, published, run, who

File = Annotated[Path, typer.Argument(help="The policy file (YAML).", show_default=False)]
Note = Annotated[str, typer.Option(help="Why, for the history.")]
Wait = Annotated[float, typer.Option(min=0.0, help="How long to wait until replicas follow, in seconds.")]


def push_command(
    file: File,
    note: Note = "",
    canary: Annotated[
        float | None, typer.Option(metavar="PERCENT", help="Let it decide for this percentage of keys.")
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="The tenant of the canary; all if left out.")] = None,
    shadow: Annotated[bool, typer.Option("--shadow", help="Let it decide beside, and do nothing.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Begin anew where the store was sealed with another secret.")
    ] = False,
    wait_s: Wait = 5.0,
    redis_url: RedisUrl = None,
) -> None:
    """Publish a policy: for everybody, as a canary or as a shadow; replicas follow within two seconds."""
    if shadow and (canary is not None or force):
        fail("--shadow goes with neither --canary nor --force")
    if canary is not None and not 0.0 < canary <= 100.0:
        fail("--canary is a percentage: above 0, at most 100")
    if tenant is not None and canary is None:
        fail("--tenant is for --canary PERCENT")
    run(_push(file, note, canary, tenant, shadow, force, wait_s, redis_url))


def rollback_command(
    version: Annotated[
        str | None, typer.Argument(help="A version or its beginning; boot is the app config's policy.")
    ] = None,
    note: Note = "",
    wait_s: Wait = 5.0,
    redis_url: RedisUrl = None,
) -> None:
    """End a canary, or else bring back the version before; or go to the VERSION named."""
    run(_rollback(version, note, wait_s, redis_url))


def promote_command(note: Note = "", wait_s: Wait = 5.0, redis_url: RedisUrl = None) -> None:
    """Let the canary decide for everybody."""
    run(_promote(note, wait_s, redis_url))


async def _push(
    file: Path,
    note: str,
    canary: float | None,
    tenant: str | None,
    shadow: bool,
    force: bool,
    wait_s: float,
    redis_url: str | None,
) -> None:
    text = read_text(file)
    policy = parse_policy(text, str(file))
    if tenant is not None and tenant not in policy.tenants:
        fail(f"{file} has no tenant {tenant}; it has {', '.join(policy.tenants)}")
    document = Document(policy, text)
    async with published(redis_url) as versions:
        publisher = Publisher(versions, who())
        if shadow:
            change = await publisher.shadow(document, note)
            said = f"{policy.version} ({policy.name}) is the shadow"
        elif canary is not None:
            change = await publisher.canary(document, canary, tenant, note)
            said = _canary(policy, change.after)
        else:
            change = await publisher.push(document, note, force=force)
            said = f"{policy.version} ({policy.name}) is current"
        tell(change, versions.shelf, said)
        await followed(versions, change, wait_s)


async def _rollback(version: str | None, note: str, wait_s: float, redis_url: str | None) -> None:
    async with published(redis_url) as versions:
        change = await Publisher(versions, who()).rollback(version, note)
        tell(change, versions.shelf, f"{shown(change.after.current)} is current")
        await followed(versions, change, wait_s)


async def _promote(note: str, wait_s: float, redis_url: str | None) -> None:
    async with published(redis_url) as versions:
        change = await Publisher(versions, who()).promote(note)
        tell(change, versions.shelf, f"{shown(change.after.current)} is current")
        await followed(versions, change, wait_s)


def _canary(policy: Policy, state: Published) -> str:
    """Who falls on its side: with few keys a percentage says little."""
    canary = state.canary
    if canary is None:
        return f"{policy.version} ({policy.name}) is no canary any more"
    lines = [f"{policy.version} ({policy.name}) is the canary for {canary.percent:g} % of keys; on its side:"]
    for tenant in policy.tenants.values():
        if canary.tenant in (None, tenant.name):
            lines.append(f"  {tenant.name}: {_side(canary, tenant.name, [key.id for key in tenant.keys])}")
    return "\n".join(lines)


def _side(canary: Canary, tenant: str, keys: list[str]) -> str:
    taken = [key for key in keys if canary.takes(tenant, key)]
    local = ", and this machine's own key" if canary.takes(tenant, LOCAL_KEY_ID) else ""
    return f"{', '.join(taken) or 'none'} of {len(keys)} keys{local}"
