"""`acr serve`: the whole service on this machine, until Ctrl-C."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.startup import Interrupted, StartupError

if TYPE_CHECKING:
    from router.config import AppConfig
    from router.local import LocalStack

DEMO_TENANT = "demo"
POLL_S = 5.0
SILENCE_S = 60.0


class EngineName(StrEnum):
    llamacpp = "llamacpp"
    fake = "fake"


def serve_command(
    port: Annotated[int, typer.Option(min=0, max=65535, help="On 127.0.0.1; 0 is any free port.")] = 8000,
    policy: Annotated[Path | None, typer.Option(help="A policy file instead of the packaged one.")] = None,
    config: Annotated[Path | None, typer.Option(help="An app configuration (YAML).")] = None,
    engine: Annotated[EngineName, typer.Option(help="Behind every tier, without --config.")] = (
        EngineName.llamacpp
    ),
) -> None:
    """Run the service on this machine until Ctrl-C: embedded stores, a private Ray, an engine per tier."""
    # Imported here: everything else of `acr` starts in a blink, and none of it needs this.
    from router.local import local_stack

    try:
        settings = _configuration(config, engine, policy)
        with local_stack(settings, port=port, say=_say) as stack:
            _introduce(stack)
            _watch(stack)
    except StartupError as error:
        typer.echo(f"acr serve: {error}", err=True)
        raise typer.Exit(2) from None
    except Interrupted:
        _say("stopped")


def _watch(stack: LocalStack) -> None:
    """Until a signal comes. Raises StartupError once the service has been silent for too long."""
    heard_s = time.monotonic()
    while time.monotonic() - heard_s < SILENCE_S:
        time.sleep(POLL_S)
        if stack.answers():
            heard_s = time.monotonic()
    raise StartupError(f"the service at {stack.base_url} is silent for {SILENCE_S:g} s; start it again")


def _configuration(path: Path | None, engine: EngineName, policy: Path | None) -> AppConfig:
    """What the options come to. Raises StartupError."""
    from router.profiles import fake_config, local_config, read_config

    if path is not None:
        settings = read_config(path)
    else:
        settings = fake_config() if engine is EngineName.fake else local_config()
    changes: dict[str, Any] = {} if policy is None else {"policy": str(policy.absolute())}
    return settings.model_copy(update=changes)


def _say(text: str) -> None:
    typer.echo(f"  {text}", err=True)


def _introduce(stack: LocalStack) -> None:
    """Where it is, with which key, and a line that works when pasted."""
    tenant = DEMO_TENANT if DEMO_TENANT in stack.keys else min(stack.keys)
    key_file = stack.key_files[tenant]
    typer.echo(f"ready after {stack.start_s:.0f} s: {stack.base_url}/v1")
    typer.echo(f"key of the tenant {tenant} ({key_file}): {stack.keys[tenant]}")
    others = ", ".join(sorted(set(stack.keys) - {tenant}))
    if others:
        typer.echo(f"keys of {others} are next to it")
    typer.echo("")
    typer.echo(
        f"curl {stack.base_url}/v1/chat/completions -H 'Content-Type: application/json' "
        f"-H 'Authorization: Bearer {stack.keys[tenant]}' "
        """-d '{"model": "auto", "messages": [{"role": "user", "content": "What is 12 + 35?"}]}'"""
    )
    typer.echo("")
    typer.echo("Ctrl-C stops everything.")
