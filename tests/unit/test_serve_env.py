from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from router import serve_env
from router.leftovers import STACK_ID
from router.serve_env import LocalRay, applied, find_haproxy, local_environment, write_wrapper
from router.startup import StartupError


@pytest.fixture
def local(tmp_path: Path) -> LocalRay:
    return LocalRay("id-1", tmp_path, tmp_path / "ray-token", fallback_port=8765, cpus=2)


def test_ray_asks_for_a_token_and_stays_on_loopback(local: LocalRay) -> None:
    environment = local_environment(local, None)
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["RAY_AUTH_TOKEN_PATH"] == str(local.token_file)
    assert environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    assert environment["RAY_USAGE_STATS_ENABLED"] == "0"
    assert environment[STACK_ID] == "id-1"


def test_without_a_binary_there_is_no_haproxy(local: LocalRay) -> None:
    environment = local_environment(local, None)
    assert "RAY_SERVE_ENABLE_HA_PROXY" not in environment
    assert environment["RAY_SERVE_THROUGHPUT_OPTIMIZED"] == "1"


def test_every_path_of_haproxy_is_private(local: LocalRay) -> None:
    environment = local_environment(local, Path("/bin/true"))
    paths = {name: value for name, value in environment.items() if name.startswith("RAY_SERVE_HAPROXY_")}
    for name in ("BINARY_PATH", "CONFIG_FILE_LOC", "SOCKET_PATH", "METRICS_SOCKET_PATH", "SERVER_STATE_FILE"):
        assert Path(paths[f"RAY_SERVE_HAPROXY_{name}"]).parent == local.run_dir
    assert paths["RAY_SERVE_HAPROXY_SERVER_STATE_BASE"] == str(local.run_dir)


def test_clients_and_replicas_cannot_stay_silent_for_ever(local: LocalRay) -> None:
    environment = local_environment(local, Path("/bin/true"))
    assert 0 < int(environment["RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S"]) <= 120
    assert int(environment["RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S"]) > 0


def test_the_buffer_holds_the_headers_that_the_service_refuses_itself(local: LocalRay) -> None:
    from router.http.settings import HttpSettings

    environment = local_environment(local, Path("/bin/true"))
    assert int(environment["RAY_SERVE_HAPROXY_TUNE_BUFSIZE"]) > HttpSettings().max_header_bytes + 1024


def test_stopping_does_not_wait_for_load_balancers(local: LocalRay) -> None:
    assert local_environment(local, None)["RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"] == "0"


def test_socket_paths_fit(local: LocalRay) -> None:
    """The run folder + a node id of 56 + metrics.sock + HAProxy's own .PID.tmp, under 108 bytes."""
    run_dir = Path("/tmp/acr-xxxxxxxx")  # noqa: S108
    short = LocalRay("id", run_dir, local.token_file, 1, 1)
    with pytest.raises(FileNotFoundError):  # the wrapper goes there
        local_environment(short, Path("/bin/true"))
    longest = run_dir / ("0" * 56) / "metrics.sock.4194304.tmp"
    assert len(bytes(longest)) < 108


def test_applied_puts_everything_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    monkeypatch.setenv("ACR_TEST_OLD", "old")
    monkeypatch.delenv("ACR_TEST_NEW", raising=False)
    with applied({"ACR_TEST_OLD": "a", "ACR_TEST_NEW": "b"}):
        assert os.environ["ACR_TEST_OLD"] == "a"
        assert os.environ["ACR_TEST_NEW"] == "b"
    assert os.environ["ACR_TEST_OLD"] == "old"
    assert "ACR_TEST_NEW" not in os.environ


def test_applied_after_an_error_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    monkeypatch.delenv("ACR_TEST_NEW", raising=False)
    with pytest.raises(KeyError), applied({"ACR_TEST_NEW": "b"}):
        raise KeyError("x")
    assert "ACR_TEST_NEW" not in os.environ


def test_too_late_once_ray_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", object())
    with pytest.raises(StartupError, match="already imported"), applied({}):
        pass


def test_the_binary_is_found_where_ray_serve_is_installed() -> None:
    binary = find_haproxy()
    assert binary is not None
    assert os.access(binary, os.X_OK)


def test_no_binary_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve_env.sys, "platform", "darwin")
    assert find_haproxy() is None


def test_the_wrapper_is_private_and_quotes_its_words(tmp_path: Path) -> None:
    wrapper = write_wrapper(tmp_path / "haproxy", Path("/opt/a b/haproxy"))
    assert wrapper.stat().st_mode & 0o777 == 0o700
    assert "'/opt/a b/haproxy'" in wrapper.read_text()
    assert " $PPID " in wrapper.read_text()
