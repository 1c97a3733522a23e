"""What the local stack looks at before it starts anything slow, and what it says where something is wrong."""

from __future__ import annotations

import asyncio
import errno
import re
import socket
from pathlib import Path

from backends.engines.config import LlamaCppConfig
from backends.errors import ModelFileError
from backends.models import default_model_path
from policies.errors import PolicyFileError, StoreUnavailable
from policies.loader import load_policy
from policies.store import answer, connect
from router.config import AppConfig
from router.startup import StartupError

HOST = "127.0.0.1"
PING_TIMEOUT_S = 2.0


def check_files(config: AppConfig) -> tuple[str, ...]:
    """What would only fail in a replica later, a minute and a traceback away; returns the tenants."""
    try:
        policy = load_policy(config.policy_path())
        engines = [tier.engine for tier in config.tiers.values()]
        if any(isinstance(engine, LlamaCppConfig) and engine.model_path is None for engine in engines):
            default_model_path()
    except (PolicyFileError, ModelFileError) as error:
        raise StartupError(str(error)) from error
    for name, tier in config.tiers.items():
        path = getattr(tier.engine, "model_path", None)
        if isinstance(tier.engine, LlamaCppConfig) and path is not None and not Path(path).is_file():
            raise StartupError(f"tier {name}: there is no model at {path}; correct model_path")
    return tuple(policy.tenants)


def free_port(port: int) -> int:
    """The port itself if it is free, any free one for 0."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            problem = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
            raise StartupError(f"port {port} on {HOST} {problem}; choose another with --port") from error
        free: int = probe.getsockname()[1]
        return free


def ping_store(variable: str, url: str) -> None:
    """Raise StartupError unless the store answers; its URL may hold a password and is not shown."""

    async def ping() -> None:
        client = connect(url, connect_timeout_s=PING_TIMEOUT_S, command_timeout_s=PING_TIMEOUT_S)
        try:
            await answer(client.ping())
        finally:
            await client.aclose()

    try:
        asyncio.run(ping())
    except (ValueError, StoreUnavailable) as error:
        raise StartupError(
            f"the store that {variable} names does not answer; start it, correct {variable}, "
            "or unset it to use the embedded one"
        ) from error


def one_line(text: str) -> str:
    """The last line that names an error, or the last line: where a traceback says what happened."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["it did not say why"]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Unavailable|Unwell)\b", line)]
    return (named or lines)[-1][:400]
