"""What the local stack looks at before it starts anything slow, and what it says where something is wrong."""

from __future__ import annotations

import asyncio
import re
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

PING_TIMEOUT_S = 2.0
MAX_LINE_CHARS = 400


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
