"""A command's way to the published policies: which store, with which secret, and errors as one line."""

from __future__ import annotations

import asyncio
import getpass
import os
import socket
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Annotated, Any, NoReturn, TypeVar

import typer

from classifier.errors import ClassifierError
from policies.errors import (
    NotSealed,
    PolicyFileError,
    PublicationRefused,
    StoreUnavailable,
    UnknownVersion,
)
from policies.versions import POLICIES, Shelf, Versions
from router.cli.client import fail
from router.state import StateDir

TIMEOUT_S = 2.0

T = TypeVar("T")

RedisUrl = Annotated[
    str | None,
    typer.Option(help="The store of the budgets; $REDIS_URL or the local stack's if left out."),
]


@asynccontextmanager
async def published(redis_url: str | None, shelf: Shelf = POLICIES) -> AsyncIterator[Versions]:
    """What the service has published on that shelf. Ends the command where store or secret are not known."""
    # Imported here: the commands that need no store start in a blink.
    from policies.redis_versions import RedisVersions
    from policies.store import connect

    url = store_url(redis_url)
    secret = os.environ.get("ACR_CACHE_SECRET") or StateDir().read_secret()
    if not secret:
        fail("no secret: set ACR_CACHE_SECRET to the service's; replicas follow only what it seals")
    try:
        client = connect(
            url, connect_timeout_s=TIMEOUT_S, command_timeout_s=TIMEOUT_S, decode_responses=False
        )
    except ValueError:
        fail("that is no Redis URL; write redis://HOST:PORT/0, rediss:// or unix://")
    try:
        yield RedisVersions(client, secret.encode(), shelf)
    finally:
        await client.aclose()


def store_url(redis_url: str | None) -> str:
    """What was given, else the environment's or the local stack's. Ends the command without any."""
    record = StateDir().read_record()
    url = redis_url or os.environ.get("REDIS_URL") or (record.redis_url if record else None)
    if not url:
        fail("no store: start the service here with `acr serve`, or set REDIS_URL or --redis-url")
    return url


def run(work: Coroutine[Any, Any, T], *, if_refused: int = 1) -> T:
    """Run it; a refusal ends the command with 1, store trouble and wrong usage with 2, in one line."""
    try:
        return asyncio.run(work)
    except PolicyFileError as error:
        refused(error, if_refused)
    except PublicationRefused as error:
        reject(str(error))
    except (StoreUnavailable, NotSealed, UnknownVersion, ClassifierError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def refused(error: PolicyFileError, code: int = 1) -> NoReturn:
    """`code` where the policy is wrong, 2 where there is no file to look at."""
    typer.echo(str(error), err=True)
    raise typer.Exit(2 if isinstance(error.__cause__, OSError) else code)


def reject(message: str) -> NoReturn:
    """One line on stderr, exit code 1."""
    typer.echo(message, err=True)
    raise typer.Exit(1)


def who() -> str:
    """Whom the history names: user@host, as far as this machine knows."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"
