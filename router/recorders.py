"""Which engine records which arms: one that is named, or each tier's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from backends.engines.base import Engine
from backends.engines.build import build_engine
from backends.engines.config import LlamaCppConfig, TransformersConfig
from router.config import AppConfig
from router.record import RecordedArm
from router.startup import StartupError

RecordEngine = Literal["offline", "llamacpp", "transformers"]


@dataclass(frozen=True, slots=True)
class Recorder:
    """An engine, not yet started, with the arms it records and how many questions run side by side."""

    engine: Engine
    arms: Sequence[RecordedArm]
    concurrency: int


def local_recorder(
    kind: RecordEngine,
    arms: Sequence[RecordedArm],
    model: str | None,
    parallel: int,
    threads: int | None,
    samples: int,
) -> Recorder:
    """One engine on this machine for all arms; `model` None is the default model."""
    if kind == "llamacpp":
        engine = build_engine(LlamaCppConfig(model_path=model, parallel=min(parallel, 256), threads=threads))
        return Recorder(engine, arms, 1)
    torch_config = TransformersConfig(model=model, parallel=parallel, threads=threads)
    if kind == "transformers":
        return Recorder(build_engine(torch_config), arms, _side_by_side(parallel, samples))
    from backends.engines.transformers.offline import OfflineEngine

    return Recorder(OfflineEngine(torch_config), arms, _side_by_side(parallel, samples))


def tier_recorders(
    config: AppConfig, tiers: Mapping[str, str], arms: Sequence[RecordedArm], samples: int
) -> list[Recorder]:
    """Each arm on the engine of its tier in `config`, where it will run; `tiers` maps arms to tiers.

    Tiers with one engine share it. Raises StartupError for an arm on a tier that the configuration lacks.
    """
    lacking = sorted({tiers[arm.name] for arm in arms} - set(config.tiers))
    if lacking:
        raise StartupError(f"the configuration has no tier {', '.join(lacking)}; choose others with --arms")
    of_engine: dict[str, list[RecordedArm]] = {}
    engines = {}
    for arm in arms:
        wanted = config.tiers[tiers[arm.name]].engine
        same = wanted.model_dump_json()
        engines[same] = wanted
        of_engine.setdefault(same, []).append(arm)
    return [
        Recorder(build_engine(engines[same]), mine, _side_by_side(engines[same].parallel, samples))
        for same, mine in of_engine.items()
    ]


def _side_by_side(parallel: int, samples: int) -> int:
    """With these many questions the batch stays full while single ones come to their end."""
    return max(1, 2 * parallel // samples)
