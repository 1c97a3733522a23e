"""A command's way to the running service: where it is, with which key, and errors as one line."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import httpx
import typer
from rich.console import Console

from router.state import StateDir

DEFAULT_URL = "http://127.0.0.1:8000"
TIMEOUT_S = 600.0

console = Console()


def fail(message: str) -> NoReturn:
    """One line on stderr, exit code 2."""
    typer.echo(message, err=True)
    raise typer.Exit(2)


@dataclass(frozen=True, slots=True)
class Target:
    """The service to talk to, and the key to use."""

    url: str
    key: str


def target(url: str | None, key: str | None, tenant: str | None) -> Target:
    """What was given, or else the local stack of this folder. Exits with a line if there is no key."""
    state = StateDir()
    record = state.read_record()
    url = url or os.environ.get("ACR_URL") or (record.base_url if record and record.base_url else DEFAULT_URL)
    key = key or os.environ.get("ACR_API_KEY") or _key_file(state, tenant)
    if not key:
        fail("no API key: start the service here with `acr serve`, or set ACR_API_KEY or --key")
    return Target(url.rstrip("/"), key)


def _key_file(state: StateDir, tenant: str | None) -> str | None:
    folder = state.path / "keys"
    files = [state.key_file(tenant)] if tenant else _demo_first(folder)
    for file in files:
        if file.is_file():
            return file.read_text(encoding="utf-8").strip()
    return None


def _demo_first(folder: Path) -> list[Path]:
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return sorted(files, key=lambda file: file.name != "demo")


def post(to: Target, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """POST and parse; every failure ends the command with one line that says what to do."""
    try:
        reply = httpx.post(
            f"{to.url}{path}",
            json=body,
            headers={"Authorization": f"Bearer {to.key}"},
            timeout=TIMEOUT_S,
            trust_env=False,
        )
    except httpx.TransportError:
        fail(f"no service answers at {to.url}: start it with `acr serve`, or name another with --url")
    try:
        answer = reply.json()
    except ValueError:
        fail(f"{to.url} answered {reply.status_code} with something that is not JSON; is it the router?")
    if reply.status_code != httpx.codes.OK:
        error = answer.get("error", {}) if isinstance(answer, dict) else {}
        fail(f"{reply.status_code} {error.get('code', '')}: {error.get('message', 'no message')}")
    return dict(answer)
