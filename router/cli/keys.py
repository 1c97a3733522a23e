"""`acr keys`: make API keys. A key is shown once; the policy keeps its hash."""

from __future__ import annotations

import re
import secrets
from typing import Annotated

import typer

from policies.keys import create_key

app = typer.Typer(help="Make API keys.", no_args_is_help=True)

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")  # as the policy wants it


@app.callback()
def _group() -> None:
    """Make API keys."""


@app.command()
def create(
    tenant: Annotated[str, typer.Option(help="The tenant of the policy that the key is for.")] = "demo",
    id_: Annotated[
        str | None, typer.Option("--id", help="The key's public name; random if left out.")
    ] = None,
) -> None:
    """Print a new key, once, and the lines to paste into the policy."""
    key_id = id_ if id_ is not None else f"key-{secrets.token_hex(3)}"
    if not _ID.fullmatch(key_id):
        typer.echo("--id may have letters, digits and _.- only, at most 64 of them", err=True)
        raise typer.Exit(2)
    key, digest = create_key()
    typer.echo("The key, shown only now; give it to its user:\n")
    typer.echo(f"  {key}\n")
    typer.echo(f"Paste these lines into the policy, under tenants, {tenant}, keys:\n")
    typer.echo(f'      - id: "{key_id}"\n        sha256: "{digest}"')
