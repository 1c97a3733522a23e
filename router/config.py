"""The cold configuration: tiers, engines, accelerators, scaling. Changing it redeploys.

Tenants, budgets and routing are in the policy. Secrets are in neither: the stores' URLs come from the
environment (REDIS_URL, CACHE_REDIS_URL) where they are set there, and ACR_CACHE_SECRET from there alone.
"""

from __future__ import annotations

from dataclasses import replace
from math import nan
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from backends.engines.build import EngineConfig
from backends.hardware import HARDWARE, MODEL_SHAPES, Hardware, ModelShape
from backends.verifiers.config import RewardConfig
from router.http.settings import HttpSettings

Accelerator = Literal["L4", "H100", "H200"]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
Seconds = Annotated[float, Field(gt=0)]

DEFAULT_POLICY = "default"
"""The policy that comes with the package, named so instead of by a path."""


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Autoscaling(_Config):
    """Serve's autoscaling, in its own names. Its look-back of 30 s is too slow for people who wait."""

    min_replicas: int = Field(default=1, ge=0)
    max_replicas: int = Field(ge=1)
    target_ongoing_requests: float = Field(gt=0)
    metrics_interval_s: Seconds = 2.0
    look_back_period_s: Seconds = 10.0
    upscale_delay_s: float = Field(default=5.0, ge=0)
    downscale_delay_s: float = Field(default=300.0, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError("min_replicas is above max_replicas")
        return self


class ScaleConfig(_Config):
    """How many replicas a deployment has, what one takes, and how many requests it takes at a time.

    Without `num_replicas` and `autoscaling` there is one replica.
    `max_queued_requests` counts per caller; -1 is no limit. `num_cpus` is what Ray sets aside, no bound.
    """

    num_replicas: int | None = Field(default=None, ge=1)
    autoscaling: Autoscaling | None = None
    num_cpus: float = Field(default=1.0, ge=0)
    max_ongoing_requests: int = Field(default=32, ge=1)
    max_queued_requests: int = Field(default=64, ge=-1)
    graceful_shutdown_timeout_s: Seconds = 30.0

    @property
    def most_replicas(self) -> int:
        return self.autoscaling.max_replicas if self.autoscaling else self.num_replicas or 1

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if self.autoscaling is not None and self.num_replicas is not None:
            raise ValueError("give num_replicas or autoscaling, not both")
        return self


class ShapeConfig(_Config):
    """A model that `backends/hardware.py` does not know; the fields are those of its `ModelShape`."""

    name: str
    active_parameters: int = Field(ge=1)
    layers: int = Field(ge=1)
    hidden: int = Field(ge=1)
    kv_heads: int = Field(ge=1)
    head_size: int = Field(ge=1)
    weight_bytes: float = Field(gt=0)
    kv_bytes_each: int = Field(default=2, ge=1)


class TierConfig(ScaleConfig):
    """A tier: an engine on one kind of hardware, and the `reward` model that arms with `scorer: reward` ask.

    `hardware`, `usd_per_hour` (None: the data sheet's) and `shape`, the model's size, price the work. Where
    the price is "unknown", the tier is closed to whoever has a budget in money.
    `accelerator_type` places it on nodes that have one; None is any node. A replica takes requests once its
    engine is up, for which it waits `ready_timeout_s`.
    """

    engine: EngineConfig
    reward: RewardConfig | None = None
    hardware: Literal["L4", "H100", "H200", "CPU"]
    shape: str | ShapeConfig
    usd_per_hour: Annotated[float, Field(gt=0)] | Literal["unknown"] | None = None
    accelerator_type: Accelerator | None = None
    num_gpus: float = Field(default=0.0, ge=0)
    resources: dict[str, float] = Field(default_factory=dict)
    ready_timeout_s: Seconds = 900.0

    def sheet(self) -> Hardware:
        """The hardware's data sheet, at this tier's price."""
        sheet = HARDWARE[self.hardware]
        if self.usd_per_hour is None:
            return sheet
        return replace(sheet, usd_per_hour=nan if self.usd_per_hour == "unknown" else self.usd_per_hour)

    def model_shape(self) -> ModelShape:
        if isinstance(self.shape, str):
            return MODEL_SHAPES[self.shape]
        return ModelShape(**self.shape.model_dump())

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if isinstance(self.shape, str) and self.shape not in MODEL_SHAPES:
            raise ValueError(f"shape {self.shape!r} is not known: {', '.join(MODEL_SHAPES)}, or its numbers")
        if self.accelerator_type is not None and self.accelerator_type != self.hardware:
            raise ValueError(f"accelerator_type is {self.accelerator_type}, hardware {self.hardware}")
        return self


class ClassifierConfig(ScaleConfig):
    """`artifact` is a folder (None: the one that comes with the package).

    In process costs a millisecond; a heavy encoder belongs on a deployment of its own, a hop away.
    """

    artifact: str | None = None
    placement: Literal["in_process", "deployment"] = "in_process"
    max_ongoing_requests: int = Field(default=256, ge=1)
    max_queued_requests: int = Field(default=1024, ge=-1)


class IngressConfig(ScaleConfig):
    """The ingress waits far more than it computes. Whom it may serve at a time is the policy's business,
    so its own bound is high: above it, Serve refuses in plain text."""

    max_ongoing_requests: int = Field(default=1024, ge=1)
    max_queued_requests: int = Field(default=-1, ge=-1)


class CacheConfig(_Config):
    """Answers kept for equal requests; whether and for how long is the policy's to say, per tenant."""

    enabled: bool = True
    max_value_bytes: int = Field(default=1 << 20, ge=1024)


class DecisionLogConfig(_Config):
    """The log of decisions and feedback, in the budgets' store unless `redis_url` names another one.

    `max_entries` decisions and `max_feedback` scores are kept, the newest. `max_waiting` decisions of one
    replica wait at most while the store is slow or away. Messages, where a tenant lets them be logged, are
    cut at `max_prompt_bytes` a decision.
    """

    enabled: bool = True
    max_entries: int = Field(default=10_000, ge=1, le=10_000_000)
    max_feedback: int = Field(default=10_000, ge=1, le=10_000_000)
    max_waiting: int = Field(default=2_000, ge=1, le=1_000_000)
    max_prompt_bytes: int = Field(default=4_096, ge=1, le=1 << 20)
    redis_url: str | None = None


class AppConfig(_Config):
    """Everything `build_app` needs. `local_keys` maps sha256 hex to a tenant, on one machine only.

    `policy` decides until one is published; the store is asked for a newer one every `policy_poll_s`.
    `log_decisions` writes one line a request (`acr.decisions`): what was decided, never what was asked.
    """

    tiers: dict[Name, TierConfig] = Field(min_length=1)
    classifier: ClassifierConfig = ClassifierConfig()
    policy: str = DEFAULT_POLICY
    policy_poll_s: Seconds = 0.5
    redis_url: str | None = None
    cache_redis_url: str | None = None
    cache: CacheConfig = CacheConfig()
    http: HttpSettings = HttpSettings()
    ingress: IngressConfig = IngressConfig()
    lease_ttl_s: Seconds = 120.0
    log_decisions: bool = True
    decision_log: DecisionLogConfig = DecisionLogConfig()
    local_keys: dict[str, str] = Field(default_factory=dict)

    def policy_path(self) -> Path:
        """The policy file, the packaged one for "default"."""
        if self.policy != DEFAULT_POLICY:
            return Path(self.policy)
        import policies

        return Path(policies.__file__).parent / "default.yaml"
