"""ray_cluster.yaml and serve_config.yaml, checked offline and against one another."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.serve.schema import ServeDeploySchema

from backends.engines.build import OpenAIHTTPConfig
from policies.loader import load_policy
from router.config import AppConfig
from router.profiles import fake_config, read_config

ROOT = Path(__file__).parents[2]
SERVE_FILE, CLUSTER_FILE = ROOT / "serve_config.yaml", ROOT / "ray_cluster.yaml"


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    return dict(yaml.safe_load(CLUSTER_FILE.read_text()))


@pytest.fixture(scope="module")
def deploy() -> ServeDeploySchema:
    schema: ServeDeploySchema = ServeDeploySchema.model_validate(yaml.safe_load(SERVE_FILE.read_text()))
    return schema


@pytest.fixture(scope="module")
def app(deploy: ServeDeploySchema) -> AppConfig:
    return AppConfig.model_validate(deploy.applications[0].args)


# -- ray_cluster.yaml


def test_the_cluster_file_is_valid(cluster: dict[str, Any]) -> None:
    validate_config(prepare_config(copy.deepcopy(cluster)))


def test_the_check_finds_what_is_wrong(cluster: dict[str, Any]) -> None:
    broken = copy.deepcopy(cluster)
    broken["head_node_type"] = "heads"
    with pytest.raises(ValueError, match="head_node_type"):
        validate_config(prepare_config(broken))


@pytest.mark.parametrize("name", ["L4", "H100", "H200"])
def test_a_node_type_has_each_accelerator(cluster: dict[str, Any], name: str) -> None:
    nodes = [
        node["resources"]
        for node in cluster["available_node_types"].values()
        if f"accelerator_type:{name}" in node["resources"]
    ]
    assert len(nodes) == 1
    assert nodes[0][f"accelerator_type:{name}"] == 1  # a whole number for the node, not a count
    assert nodes[0]["GPU"] >= 1


def test_the_head_has_no_accelerator_and_node_types_fit_in_max_workers(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    assert "GPU" not in types[cluster["head_node_type"]]["resources"]
    workers = [node for name, node in types.items() if name != cluster["head_node_type"]]
    assert all(0 <= node["min_workers"] <= node["max_workers"] for node in workers)
    assert sum(node["max_workers"] for node in workers) <= cluster["max_workers"]


def test_every_ray_start_has_the_secrets_of_the_environment(cluster: dict[str, Any]) -> None:
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        start = [command for command in cluster[key] if "ray start" in command]
        assert len(start) == 1
        assert "set -a; . ~/acr/cluster.env" in start[0]
        assert "RAY_SERVE_THROUGHPUT_OPTIMIZED=1" in start[0]
        assert "--force" not in " ".join(cluster[key])
    assert "--dashboard-host=127.0.0.1" in " ".join(cluster["head_start_ray_commands"])


def test_nothing_listens_to_the_world(cluster: dict[str, Any]) -> None:
    assert "0.0.0.0" not in CLUSTER_FILE.read_text() + SERVE_FILE.read_text()  # noqa: S104
    assert cluster["provider"]["use_internal_ips"] is True
    assert "IpPermissions" not in cluster["provider"]["security_group"]
    for node in cluster["available_node_types"].values():
        for command in node.get("worker_setup_commands", []):
            assert "docker run" not in command or "-p 127.0.0.1:" in command


def test_no_secret_is_written_down() -> None:
    for path in (CLUSTER_FILE, SERVE_FILE):
        for line in path.read_text().splitlines():
            found = re.search(r"\b(RAY_AUTH_TOKEN|HF_TOKEN|ACR_CACHE_SECRET|REDIS_URL)=(\S+)", line)
            assert found is None or found[2].endswith("...")


# -- serve_config.yaml


def test_there_is_one_application(deploy: ServeDeploySchema) -> None:
    assert [each.import_path for each in deploy.applications] == ["router.app:build_app"]
    assert deploy.http_options.host == "127.0.0.1"


def test_its_arguments_are_an_app_config(app: AppConfig) -> None:
    assert read_config(SERVE_FILE) == app


def test_a_typo_in_its_arguments_fails_the_deploy(deploy: ServeDeploySchema) -> None:
    with pytest.raises(ValidationError):
        AppConfig.model_validate({**deploy.applications[0].args, "polcy": "x"})


def test_its_tiers_are_those_of_the_packaged_policy(app: AppConfig) -> None:
    policy = load_policy(app.policy_path())
    assert {arm.tier for arm in policy.arms.values()} == set(app.tiers)


def test_tiers_lie_on_the_hardware_they_are_named_for(app: AppConfig) -> None:
    placed = {name: (tier.hardware, tier.accelerator_type) for name, tier in app.tiers.items()}
    assert placed == {"direct": ("L4", "L4"), "consistency": ("H100", "H100"), "search": ("H200", "H200")}


def test_every_replica_has_a_node_of_its_own_that_it_fits(app: AppConfig, cluster: dict[str, Any]) -> None:
    """A replica asks the server on its node, so that two on one node would share it and scale nothing."""
    for tier in app.tiers.values():
        node = next(
            node
            for node in cluster["available_node_types"].values()
            if f"accelerator_type:{tier.accelerator_type}" in node["resources"]
        )
        assert tier.num_gpus == node["resources"]["GPU"]
        assert tier.num_cpus <= node["resources"]["CPU"]
        assert tier.autoscaling is not None
        assert tier.autoscaling.max_replicas <= node["max_workers"]
        assert tier.autoscaling.min_replicas >= node["min_workers"]


def test_engines_ask_the_server_that_their_node_starts(app: AppConfig, cluster: dict[str, Any]) -> None:
    for tier in app.tiers.values():
        assert isinstance(tier.engine, OpenAIHTTPConfig)
        setup = next(
            " ".join(node["worker_setup_commands"])
            for node in cluster["available_node_types"].values()
            if f"accelerator_type:{tier.accelerator_type}" in node["resources"]
        )
        assert tier.engine.base_url == "http://127.0.0.1:8100/v1"
        assert "-p 127.0.0.1:8100:8000" in setup
        assert f"--served-model-name {tier.engine.model} " in setup
        assert f"--max-model-len {tier.engine.context_tokens} " in setup


def test_the_ingress_fits_the_head(app: AppConfig, cluster: dict[str, Any]) -> None:
    head = cluster["available_node_types"][cluster["head_node_type"]]["resources"]
    assert app.ingress.autoscaling is not None
    assert app.ingress.autoscaling.max_replicas * app.ingress.num_cpus <= head["CPU"]


def test_something_answers_at_any_time(app: AppConfig) -> None:
    assert any(tier.autoscaling and tier.autoscaling.min_replicas for tier in app.tiers.values())


def test_no_queue_is_endless(app: AppConfig) -> None:
    assert all(tier.max_queued_requests > 0 for tier in app.tiers.values())


# -- what build_app makes of it


def deployments(application: Any) -> dict[str, Any]:
    """Name -> deployment, of the ingress and everything bound to it."""
    ingress = application._bound_deployment
    found = {ingress.name: ingress}
    for argument in (*ingress.init_args, *ingress.init_kwargs.values()):
        values = argument.values() if isinstance(argument, dict) else [argument]
        for value in values:
            if hasattr(value, "_bound_deployment"):
                found[value._bound_deployment.name] = value._bound_deployment
    return found


def test_the_graph_has_the_configured_resources(app: AppConfig) -> None:
    from router.app import build_app

    graph = deployments(build_app(app))
    assert set(graph) == {"ingress", "tier-direct", "tier-consistency", "tier-search"}
    for name, tier in app.tiers.items():
        made = graph[f"tier-{name}"]
        assert made.ray_actor_options["accelerator_type"] == tier.accelerator_type
        assert made.ray_actor_options["num_gpus"] == tier.num_gpus
        assert made.max_ongoing_requests == tier.max_ongoing_requests
        assert made.max_queued_requests == tier.max_queued_requests


def test_the_classifier_is_a_deployment_only_where_it_is_asked_for() -> None:
    from router.app import build_app

    assert "classifier" not in deployments(build_app(fake_config()))
    assert "classifier" in deployments(build_app(fake_config("deployment")))


def test_serve_itself_checks_the_builder_s_arguments() -> None:
    """It reads the annotation as it stands; were it a string, nothing would be checked."""
    from ray.serve._private.api import call_user_app_builder_with_args_if_necessary as call

    from router.app import build_app

    arguments = fake_config().model_dump()
    assert "ingress" in deployments(call(build_app, arguments))
    with pytest.raises(ValidationError):
        call(build_app, {**arguments, "polcy": "x"})
