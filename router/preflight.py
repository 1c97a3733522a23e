"""What the local stack looks at before it starts anything slow, and what it says where something is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
import re
import socket
from collections.abc import Mapping
from pathlib import Path

from backends.engines.config import LlamaCppConfig
from backends.errors import ModelFileError
from backends.models import default_model_path
from classifier.errors import ArtifactError
from classifier.predictor import Predictor
from policies.errors import PolicyFileError, StoreUnavailable
from policies.loader import load_policy
from policies.store import answer, connect
from router.config import AppConfig
from router.startup import StartupError

HOST = "127.0.0.1"
PING_TIMEOUT_S = 2.0
MAX_LINE_CHARS = 400
# Above those of Ray's workers (10002 to 19999), below those that Linux hands out (from 32768).
QUIET_PORTS = range(20_000, 32_768)
PORT_ATTEMPTS = 50


def check_files(config: AppConfig) -> tuple[str, ...]:
    """What would only fail in a replica later, a minute and a traceback away; returns the tenants."""
    try:
        policy = load_policy(config.policy_path())
        engines = [tier.engine for tier in config.tiers.values()]
        if any(isinstance(engine, LlamaCppConfig) and engine.model_path is None for engine in engines):
            default_model_path()
        Predictor.load(config.classifier.artifact)
    except (PolicyFileError, ModelFileError, ArtifactError) as error:
        raise StartupError(str(error)) from error
    for name, tier in config.tiers.items():
        path = getattr(tier.engine, "model_path", None)
        if isinstance(tier.engine, LlamaCppConfig) and path is not None and not Path(path).is_file():
            raise StartupError(f"tier {name}: there is no model at {path}; correct model_path")
    return tuple(policy.tenants)


def check_fits(config: AppConfig, resources: Mapping[str, float]) -> None:
    """Raise StartupError where a replica could never be placed: Ray would wait for a node for ever."""
    needed = {"CPU": config.ingress.num_cpus}
    if config.classifier.placement == "deployment":
        needed["CPU"] += config.classifier.num_cpus
    for tier in config.tiers.values():
        replicas = (tier.autoscaling.min_replicas if tier.autoscaling else tier.num_replicas) or 1
        wanted = {"CPU": tier.num_cpus, "GPU": tier.num_gpus, **tier.resources}
        if tier.accelerator_type is not None:
            wanted[f"accelerator_type:{tier.accelerator_type}"] = 0.001
        for name, amount in wanted.items():
            needed[name] = needed.get(name, 0.0) + replicas * amount
    for name, amount in needed.items():
        if amount > resources.get(name, 0.0) + 1e-6:
            has = resources.get(name, 0.0)
            raise StartupError(f"the configuration asks for {amount:g} {name} and this machine has {has:g}")


def free_port(port: int) -> int:
    """The port itself if it is free, any free one for 0. Raises StartupError if it is not.

    It is bound seconds after this look, by another process. So 0 takes none of those that the system or Ray's
    workers hand out in the meantime.
    """
    if port:
        _bind(port)
        return port
    for candidate in random.sample(QUIET_PORTS, PORT_ATTEMPTS):
        with contextlib.suppress(StartupError):
            _bind(candidate)
            return candidate
    raise StartupError(f"no free port was found on {HOST}; name one with --port")


def _bind(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            problem = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
            raise StartupError(f"port {port} on {HOST} {problem}; choose another with --port") from error


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
    """Of a traceback its last line, which says what happened; our own errors without their class."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()] or ["it did not say why"]
    named = [
        line for line in lines if re.match(r"([\w.]+\.)?[A-Z]\w+(: \S|$)", line) and "Traceback" not in line
    ]
    last = (named or lines)[-1].strip()
    return re.sub(r"^(backends|classifier|policies|router)\.[\w.]+: ", "", last)[:MAX_LINE_CHARS]
