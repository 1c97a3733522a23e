"""The deployment graph: ingress -> tiers, and the classifier where it has a deployment of its own.

serve run router.app:build_app            # the embedded default
serve deploy serve_config.yaml            # `args:` is an AppConfig
"""

# No `from __future__ import annotations` here: Serve reads the builder's annotation as it is, and with a
# string in its place hands over an unchecked dictionary.

from typing import Any

from ray import serve

from backends.tier import Tier
from router.config import AppConfig, ScaleConfig, TierConfig
from router.ingress import Ingress
from router.tier_factory import TierFactory

HEALTH_CHECK_PERIOD_S = 10
HEALTH_CHECK_TIMEOUT_S = 30
CONSTRUCTOR_RETRIES = 3


def build_app(args: AppConfig) -> serve.Application:
    """The Serve application of a configuration. A typo in `args` fails the deploy; the old app serves on."""
    tiers = {name: _tier(name, tier, args) for name, tier in args.tiers.items()}
    return _options(Ingress, "ingress", args.ingress).bind(args, tiers, _classifier(args))


def _tier(name: str, tier: TierConfig, args: AppConfig) -> serve.Application:
    actor: dict[str, Any] = {"num_gpus": tier.num_gpus, "resources": dict(tier.resources)}
    if tier.accelerator_type is not None:
        actor["accelerator_type"] = tier.accelerator_type
    return _options(Tier, f"tier-{name}", tier, actor).bind(TierFactory(name, args), tier.ready_timeout_s)


def _classifier(args: AppConfig) -> serve.Application | None:
    if args.classifier.placement == "in_process":
        return None
    # Imported where it is used: the ingress of an in-process classifier must not load its deployment.
    from classifier.deployment import ClassifierDeployment
    from router.model_following import ModelFollowing

    deployment = _options(ClassifierDeployment, "classifier", args.classifier)
    return deployment.bind(args.classifier.artifact, ModelFollowing(args))


def _options(
    deployment: Any, name: str, scale: ScaleConfig, actor: dict[str, Any] | None = None
) -> serve.Deployment:
    """What Serve must be told for a deployment; its defaults (5 requests, an endless queue) suit no one."""
    replicas: dict[str, Any] = (
        {"num_replicas": scale.num_replicas or 1}
        if scale.autoscaling is None
        else {"autoscaling_config": scale.autoscaling.model_dump()}
    )
    chosen: serve.Deployment = deployment.options(
        name=name,
        ray_actor_options={"num_cpus": scale.num_cpus, **(actor or {})},
        max_ongoing_requests=scale.max_ongoing_requests,
        max_queued_requests=scale.max_queued_requests,
        graceful_shutdown_timeout_s=scale.graceful_shutdown_timeout_s,
        graceful_shutdown_wait_loop_s=0.5,
        health_check_period_s=HEALTH_CHECK_PERIOD_S,
        health_check_timeout_s=HEALTH_CHECK_TIMEOUT_S,
        max_constructor_retry_count=CONSTRUCTOR_RETRIES,
        logging_config={"enable_access_log": False},
        **replicas,
    )
    return chosen
