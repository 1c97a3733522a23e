"""Configurations: two that fit one machine without an accelerator, and any other from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import ValidationError

from backends.engines.build import EngineConfig, FakeConfig, LlamaCppConfig
from backends.hardware import SMOLLM2_135M
from router.config import AppConfig, ClassifierConfig, IngressConfig, TierConfig
from router.startup import StartupError

Placement = Literal["in_process", "deployment"]

# What each tier's engine holds in memory: keys and values take 23 KB a token of `parallel` contexts.
_CONTEXT_TOKENS = 4096
_PARALLEL = {"direct": 2, "consistency": 4, "search": 4}


def local_config(placement: Placement = "in_process") -> AppConfig:
    """The embedded default: SmolLM2-135M on llama.cpp behind every tier, in what two cores and 4 GiB hold."""
    return _on_cpu({name: _llamacpp(parallel) for name, parallel in _PARALLEL.items()}, placement)


def fake_config(placement: Placement = "in_process") -> AppConfig:
    """The same service on scripted engines: no model, an answer at once."""
    return _on_cpu({name: FakeConfig() for name in _PARALLEL}, placement)


def _llamacpp(parallel: int) -> LlamaCppConfig:
    return LlamaCppConfig(context_tokens=_CONTEXT_TOKENS, parallel=parallel, prompt_cache_mib=0)


def _on_cpu(engines: dict[str, EngineConfig], placement: Placement) -> AppConfig:
    """Ray sets CPUs aside on paper only, and there may be two: the parts of a stack must fit them."""
    return AppConfig(
        tiers={name: _tier(engine) for name, engine in engines.items()},
        classifier=ClassifierConfig(placement=placement, num_cpus=0.1, graceful_shutdown_timeout_s=5.0),
        ingress=IngressConfig(num_cpus=0.1, graceful_shutdown_timeout_s=5.0),
        log_decisions=False,  # the local stack's logs go with it; the receipts tell the same
    )


def _tier(engine: EngineConfig) -> TierConfig:
    return TierConfig(
        engine=engine,
        hardware="CPU",
        shape=SMOLLM2_135M.name,
        num_cpus=0.5,
        graceful_shutdown_timeout_s=5.0,
    )


def read_config(path: Path) -> AppConfig:
    """A configuration from a YAML file: an AppConfig, or a `serve_config.yaml` with one under `args`.

    Raises StartupError, in one line.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StartupError(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StartupError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if isinstance(document, dict) and "applications" in document:
        applications = document["applications"]
        document = applications[0].get("args") if isinstance(applications, list) and applications else None
    try:
        return AppConfig.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise StartupError(f"{path}: {where}: {first['msg']}") from error
