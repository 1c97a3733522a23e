from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from router.config import AppConfig
from router.ports import free_port
from router.preflight import MAX_LINE_CHARS, check_files, check_fits, one_line
from router.profiles import fake_config, local_config
from router.startup import StartupError, Steps

TRACEBACK = """The deployment failed to start 3 times in a row. Error:
ray::ServeReplica:acr:ingress.initialize() (pid=1, ip=127.0.0.1)
  File "/x/replica.py", line 1928, in initialize
    raise RuntimeError(traceback.format_exc()) from None
RuntimeError: Traceback (most recent call last):
  File "/x/artifact.py", line 74, in load
    raise ArtifactCorrupt("...")
           ^^^^^^^^^^^^^^^^^^^^
{}
"""


@pytest.mark.parametrize(
    ("last", "said"),
    [
        ("classifier.errors.ArtifactCorrupt: fetch it again", "fetch it again"),
        ("backends.errors.ModelFileError: run `make model`", "run `make model`"),
        ("ValueError: too large", "ValueError: too large"),
        ("AssertionError", "AssertionError"),
        (
            "pydantic.ValidationError: 1 error for App\n  tiers: missing",
            "pydantic.ValidationError: 1 error for App",
        ),
    ],
)
def test_of_a_traceback_the_line_that_says_what_happened(last: str, said: str) -> None:
    assert one_line(TRACEBACK.format(last)) == said


def test_of_anything_else_the_last_line() -> None:
    assert one_line("one\n\n  two things happened\n") == "two things happened"
    assert one_line("") == "it did not say why"
    assert len(one_line("x" * 10_000)) == MAX_LINE_CHARS


def gpu_tier(**changes: Any) -> AppConfig:
    tier = {
        "engine": {"kind": "fake"},
        "hardware": "L4",
        "accelerator_type": "L4",
        "num_gpus": 1,
        "shape": "Llama-3-8B",
    } | changes
    return AppConfig.model_validate({"tiers": {"direct": tier}})


ONE_L4 = {"CPU": 8.0, "GPU": 1.0, "accelerator_type:L4": 1.0}


def test_profiles_fit_two_cpus() -> None:
    for config in (local_config(), fake_config(), fake_config("deployment")):
        check_fits(config, {"CPU": 2.0})


def test_what_never_fits_is_said_at_once() -> None:
    with pytest.raises(StartupError, match=r"asks for 1\.6 CPU and this machine has 1"):
        check_fits(fake_config(), {"CPU": 1.0})
    with pytest.raises(StartupError, match="asks for 1 GPU and this machine has 0"):
        check_fits(gpu_tier(), {"CPU": 8.0})
    with pytest.raises(StartupError, match="accelerator_type:L4"):
        check_fits(gpu_tier(), {"CPU": 8.0, "GPU": 1.0})
    with pytest.raises(StartupError, match="asks for 1 fpga"):
        check_fits(gpu_tier(resources={"fpga": 1}), ONE_L4)


def test_replicas_count() -> None:
    check_fits(gpu_tier(), ONE_L4)
    with pytest.raises(StartupError, match="asks for 2 GPU"):
        check_fits(gpu_tier(num_replicas=2), ONE_L4)
    scaling = {"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": 1}
    check_fits(gpu_tier(autoscaling=scaling), ONE_L4)
    with pytest.raises(StartupError, match="asks for 3 GPU"):
        check_fits(gpu_tier(autoscaling={**scaling, "min_replicas": 3}), ONE_L4)


def test_a_classifier_of_its_own_counts() -> None:
    config = fake_config("deployment").model_copy(
        update={
            "classifier": fake_config().classifier.model_copy(
                update={"placement": "deployment", "num_cpus": 2}
            )
        }
    )
    with pytest.raises(StartupError, match=r"asks for 3\.6 CPU"):
        check_fits(config, {"CPU": 2.0})


def test_files_are_looked_at_first(tmp_path: Path) -> None:
    assert "demo" in check_files(fake_config())
    with pytest.raises(StartupError, match=r"none\.yaml"):
        check_files(fake_config().model_copy(update={"policy": str(tmp_path / "none.yaml")}))


def test_the_classifier_must_be_there(tmp_path: Path) -> None:
    classifier = fake_config().classifier.model_copy(update={"artifact": str(tmp_path / "none")})
    with pytest.raises(StartupError, match="none is not a directory"):
        check_files(fake_config().model_copy(update={"classifier": classifier}))


def test_a_model_that_is_named_must_be_there(tmp_path: Path) -> None:
    tier = {
        "engine": {"kind": "llamacpp", "model_path": str(tmp_path / "m.gguf")},
        "hardware": "CPU",
        "shape": "Llama-3-8B",
    }
    config = AppConfig.model_validate({"tiers": {"direct": tier}})
    with pytest.raises(
        StartupError, match=r"tier direct: there is no model at .*m\.gguf; correct model_path"
    ):
        check_files(config)
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    check_files(config)


def test_the_default_model_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACR_CACHE_DIR", str(tmp_path))
    with pytest.raises(StartupError, match="model"):
        check_files(local_config())


def test_a_port_is_free_or_it_is_said() -> None:
    port = free_port(0)
    assert free_port(port) == port
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with pytest.raises(StartupError, match=f"port {port} on 127.0.0.1 is in use; choose another"):
            free_port(port)


def test_any_port_is_none_that_the_system_gives_to_others() -> None:
    """It is bound later, by another process; in between, connections and Ray's workers take ports."""
    low, _ = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    assert all(19_999 < free_port(0) < low for _ in range(100))


def test_steps_say_how_long_they_took() -> None:
    said: list[str] = []
    steps = Steps(said.append)
    with steps.step("stores"):
        pass
    steps.tell("tier-direct")
    assert said[0].startswith("stores: 0.0 s")
    assert said[1].startswith("tier-direct: up after 0.")
    assert steps.elapsed_s >= 0


def test_a_step_that_fails_is_not_said_to_be_done() -> None:
    said: list[str] = []
    with pytest.raises(KeyError), Steps(said.append).step("ray"):
        raise KeyError
    assert said == []
