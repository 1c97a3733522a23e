from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from backends.engines.build import FakeConfig, LlamaCppConfig, OpenAIHTTPConfig
from backends.hardware import CPU, H100, MODEL_SHAPES
from policies.loader import load_policy
from router.config import AppConfig, Autoscaling, IngressConfig, TierConfig
from router.profiles import fake_config, local_config, read_config
from router.startup import StartupError

TIER: dict[str, Any] = {"engine": {"kind": "fake"}, "hardware": "CPU", "shape": "SmolLM2-135M-Instruct"}


def app(**changes: Any) -> AppConfig:
    return AppConfig.model_validate({"tiers": {"direct": TIER}, **changes})


def tier(**changes: Any) -> TierConfig:
    return TierConfig.model_validate(TIER | changes)


def test_one_tier_is_enough() -> None:
    config = app()
    assert isinstance(config.tiers["direct"].engine, FakeConfig)
    assert config.classifier.placement == "in_process"


def test_it_comes_back_from_json_as_it_was() -> None:
    scaled = app(ingress={"autoscaling": {"max_replicas": 2, "target_ongoing_requests": 9}})
    for config in (app(), scaled, local_config(), fake_config("deployment")):
        assert AppConfig.model_validate_json(config.model_dump_json()) == config


def test_it_can_be_pickled() -> None:
    assert pickle.loads(pickle.dumps(local_config())) == local_config()  # noqa: S301  Serve does so


@pytest.mark.parametrize(
    "typo",
    [
        {"tier": {}},
        {"tiers": {"direct": TIER | {"max_ongoing": 3}}},
        {"tiers": {"direct": TIER | {"engine": {"kind": "fake", "modle": "x"}}}},
        {"tiers": {"direct": TIER | {"autoscaling": {"max_replicas": 2, "target": 1}}}},
        {"classifier": {"path": "x"}},
        {"http": {"heartbeat": 1}},
        {"ingress": {"replicas": 2}},
        {"cache": {"ttl_s": 1}},
    ],
)
def test_a_typo_is_refused(typo: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        app(**typo)


@pytest.mark.parametrize(
    "wrong",
    [
        {"tiers": {}},
        {"tiers": {"Direct": TIER}},
        {"tiers": {"a" * 33: TIER}},
        {"tiers": {"tier#1": TIER}},
        {"tiers": {"direct": TIER | {"hardware": "A100"}}},
        {"tiers": {"direct": TIER | {"engine": {"kind": "triton"}}}},
        {"tiers": {"direct": TIER | {"shape": "GPT-9"}}},
        {"tiers": {"direct": TIER | {"num_replicas": 0}}},
        {"tiers": {"direct": TIER | {"max_ongoing_requests": 0}}},
        {"tiers": {"direct": TIER | {"max_queued_requests": -2}}},
        {"tiers": {"direct": TIER | {"usd_per_hour": 0}}},
        {"lease_ttl_s": 0},
        {"classifier": {"placement": "somewhere"}},
    ],
)
def test_what_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        app(**wrong)


def test_no_tier_without_an_engine() -> None:
    with pytest.raises(ValidationError, match="engine"):
        AppConfig.model_validate({"tiers": {"direct": {"hardware": "CPU", "shape": TIER["shape"]}}})


def test_nothing_can_be_changed_afterwards() -> None:
    config = app()
    with pytest.raises(ValidationError):
        config.policy = "other.yaml"  # type: ignore[misc]


def test_replicas_are_fixed_or_scaled_but_not_both() -> None:
    scaling = {"min_replicas": 1, "max_replicas": 3, "target_ongoing_requests": 8}
    assert tier(autoscaling=scaling).autoscaling == Autoscaling(
        min_replicas=1, max_replicas=3, target_ongoing_requests=8
    )
    with pytest.raises(ValidationError, match="not both"):
        tier(autoscaling=scaling, num_replicas=2)


def test_scaling_has_an_order() -> None:
    with pytest.raises(ValidationError, match="above"):
        Autoscaling(min_replicas=4, max_replicas=2, target_ongoing_requests=1)


def test_scaling_reacts_faster_than_serve_by_itself() -> None:
    from ray.serve.config import AutoscalingConfig

    ours = Autoscaling(max_replicas=2, target_ongoing_requests=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        theirs = AutoscalingConfig.model_validate(ours.model_dump())
    assert theirs.look_back_period_s < AutoscalingConfig().look_back_period_s
    assert theirs.upscale_delay_s < AutoscalingConfig().upscale_delay_s


def test_the_accelerator_is_the_hardware_that_is_priced() -> None:
    assert tier(hardware="L4", accelerator_type="L4").accelerator_type == "L4"
    with pytest.raises(ValidationError, match="accelerator_type is L4, hardware H100"):
        tier(hardware="H100", accelerator_type="L4")
    with pytest.raises(ValidationError):
        tier(hardware="CPU", accelerator_type="CPU")


def test_prices_come_from_the_data_sheet_unless_given() -> None:
    assert tier(hardware="H100").sheet() == H100
    assert tier(usd_per_hour=0.5).sheet().usd_per_hour == 0.5
    assert tier(usd_per_hour=0.5).sheet().bandwidth_bytes_per_s == CPU.bandwidth_bytes_per_s


def test_a_model_is_known_by_name_or_described() -> None:
    assert tier().model_shape() is MODEL_SHAPES["SmolLM2-135M-Instruct"]
    described = {
        "name": "mine",
        "active_parameters": 10,
        "layers": 2,
        "hidden": 8,
        "kv_heads": 1,
        "head_size": 8,
        "weight_bytes": 20,
    }
    assert tier(shape=described).model_shape().kv_bytes_per_token == 2 * 2 * 1 * 8 * 2
    with pytest.raises(ValidationError):
        tier(shape={**described, "layers": 0})


def test_the_ingress_waits_for_many() -> None:
    assert IngressConfig().max_ongoing_requests >= 1024
    assert IngressConfig().max_queued_requests == -1


def test_the_packaged_policy_has_a_name() -> None:
    assert "demo" in load_policy(app().policy_path()).tenants
    assert app(policy="/etc/acr/policy.yaml").policy_path() == Path("/etc/acr/policy.yaml")


@pytest.mark.parametrize("config", [local_config(), fake_config()], ids=["local", "fake"])
def test_a_profile_fits_two_cpus_without_accelerators(config: AppConfig) -> None:
    parts = [*config.tiers.values(), config.ingress, config.classifier]
    assert sum(part.num_cpus for part in parts) <= 2
    assert all(tier.num_gpus == 0 and tier.accelerator_type is None for tier in config.tiers.values())
    assert all(part.autoscaling is None for part in parts)


@pytest.mark.parametrize("config", [local_config(), fake_config()], ids=["local", "fake"])
def test_a_profile_has_the_tiers_of_the_packaged_policy(config: AppConfig) -> None:
    policy = load_policy(config.policy_path())
    assert {arm.tier for arm in policy.arms.values()} == set(config.tiers)


def test_the_local_engines_fit_four_gib() -> None:
    """Keys and values are the largest part: bytes a token times tokens of all contexts."""
    total = 0.0
    for each in local_config().tiers.values():
        assert isinstance(each.engine, LlamaCppConfig)
        tokens = each.engine.context_tokens * each.engine.parallel
        total += each.model_shape().kv_bytes_per_token * tokens
        total += each.engine.prompt_cache_mib << 20
    assert total < 1 << 30


def test_contexts_hold_the_longest_completion_that_the_policy_allows() -> None:
    policy = load_policy(local_config().policy_path())
    cap = max(tenant.max_completion_tokens.default for tenant in policy.tenants.values())
    for each in local_config().tiers.values():
        assert each.engine.context_tokens >= 2 * cap


def written(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text)
    return path


YAML = """
tiers:
  direct:
    engine: {kind: openai_http, base_url: "http://10.0.0.2:8000/v1", model: m, context_tokens: 4096}
    hardware: L4
    shape: Llama-3-8B
"""


def test_a_file_is_read(tmp_path: Path) -> None:
    config = read_config(written(tmp_path, YAML))
    assert isinstance(config.tiers["direct"].engine, OpenAIHTTPConfig)


def test_a_serve_config_is_read_by_its_arguments(tmp_path: Path) -> None:
    indented = "".join(f"    {line}\n" for line in YAML.strip().splitlines())
    text = f"applications:\n- name: acr\n  import_path: router.app:build_app\n  args:\n{indented}"
    assert read_config(written(tmp_path, text)) == read_config(written(tmp_path, YAML))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (YAML + "polcy: x\n", "polcy: Extra inputs"),
        (YAML.replace("L4", "L5"), "tiers.direct.hardware: Input should be"),
        ("", "the whole file"),
        ("applications: []", "the whole file"),
        ("- 1", "the whole file"),
        ("tiers: [", "is not YAML"),
        ("tiers: !!python/object/apply:os.system [id]", "is not YAML"),
    ],
)
def test_a_broken_file_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(StartupError) as caught:
        read_config(written(tmp_path, text))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"none\.yaml cannot be read: No such file"):
        read_config(tmp_path / "none.yaml")
