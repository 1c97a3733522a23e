"""The rewriting of Serve's HAProxy configuration, against the template of the Ray that is installed."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jinja2 import Environment

from router.haproxy import UnexpectedConfig, harden


def rendered(host: str = "127.0.0.1", **changes: Any) -> str:
    """What Serve would write; its template is loaded from its file, so that `ray` is not imported."""
    ray = importlib.util.find_spec("ray")
    assert ray is not None
    assert ray.submodule_search_locations
    path = Path(ray.submodule_search_locations[0]) / "serve/_private/haproxy_templates.py"
    spec = importlib.util.spec_from_file_location("haproxy_templates", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = {
        "log_target": "127.0.0.1:514",
        "socket_path": "/run/x/admin.sock",
        "maxconn": 1024,
        "nbthread": 2,
        "bufsize": 16384,
        "enable_hap_optimization": True,
        "server_state_base": "/run/x",
        "server_state_file": "/run/x/server-state",
        "hard_stop_after_s": 10,
        "timeout_connect_s": 5,
        "timeout_client_s": 60,
        "timeout_server_s": 900,
        "timeout_http_keep_alive_s": 90,
        "retry_on": "conn-failure",
        "tcp_nodelay": True,
        "error_file_path": "/run/x/500.http",
        "balance_algorithm": "leastconn",
        "metrics_port": 9101,
        "metrics_uri": "/metrics",
        "frontend_host": host,
        "frontend_port": 8000,
        "stats_port": 8404,
        "stats_uri": "/stats",
        "health_check_endpoint": "/-/healthz",
    } | changes
    none_by_default = dict.fromkeys(
        ["close_spread_time_s", "timeout_http_request_s", "timeout_queue_s", "retries"]
    )
    environment = Environment(autoescape=False)  # noqa: S701  a configuration, not HTML
    environment.filters["haproxy_fmt"] = lambda value: f'"{value}"'
    text: str = environment.from_string(module.HAPROXY_CONFIG_TEMPLATE).render(
        config=SimpleNamespace(**none_by_default, **config),
        backends=[],
        backends_with_health_config=[],
        route_info=SimpleNamespace(status=200, routes_content_type="text/plain", routes_message="x"),
        healthz_rules="",
    )
    return text


def test_the_template_of_this_ray_is_open_and_becomes_closed() -> None:
    config = rendered()
    assert "bind :9101" in config
    assert "bind *:8404" in config
    assert re.findall(r"bind\s+(\S+)", harden(config, 10)) == ["127.0.0.1:8000"]


def test_both_open_sections_go_whole() -> None:
    hardened = harden(rendered(), 10)
    assert "prometheus" not in hardened
    assert "stats uri" not in hardened
    assert "stats enable" not in hardened


def test_what_comes_between_and_after_dropped_sections_stays() -> None:
    hardened = harden(rendered() + "\nbackend last\n    mode http\n", 10)
    assert "frontend http_frontend" in hardened
    assert "backend default_backend" in hardened
    assert hardened.endswith("backend last\n    mode http\n")


def test_the_admin_socket_is_for_its_owner() -> None:
    hardened = harden(rendered(), 10)
    assert "stats socket /run/x/admin.sock mode 600 level admin expose-fd listeners" in hardened
    assert "666" not in hardened


def test_requests_are_not_spliced() -> None:
    assert "option splice-request" in rendered()
    assert "splice" not in harden(rendered(), 10)
    assert "option abortonclose" in harden(rendered(), 10)


def test_slow_headers_are_cut_off() -> None:
    assert "    timeout http-request 7s\n" in harden(rendered(), 7)


def test_nothing_is_logged_to_whoever_listens() -> None:
    assert "127.0.0.1:514" in rendered()
    assert "127.0.0.1:514" not in harden(rendered(), 10)


def test_own_errors_follow_the_contract() -> None:
    hardened = harden(rendered(), 10)
    assert "errorfile" not in hardened
    errors = dict(
        re.findall(r"http-error status (\d+) content-type application/json string '([^']*)'", hardened)
    )
    assert sorted(errors) == ["400", "408", "502", "503", "504"]
    for body in errors.values():
        error = json.loads(body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
    assert json.loads(errors["503"])["error"]["code"] == "overloaded"


def test_own_errors_say_whether_to_ask_again() -> None:
    lines = {line.split()[2]: line for line in harden(rendered(), 10).splitlines() if "http-error" in line}
    assert "hdr x-should-retry true hdr retry-after 2" in lines["503"]
    assert "hdr x-should-retry false" in lines["502"]
    assert "hdr x-should-retry false" in lines["504"]
    assert all("hdr x-request-id %[uuid]" in line for line in lines.values())


@pytest.mark.parametrize("host", ["*", "0.0.0.0", "192.0.2.7", "[::]"])  # noqa: S104
def test_a_frontend_beyond_loopback_is_not_started(host: str) -> None:
    with pytest.raises(UnexpectedConfig, match="only loopback"):
        harden(rendered(host), 10)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
def test_loopback_has_three_names(host: str) -> None:
    assert f"bind {host}:8000" in harden(rendered(host), 10)


@pytest.mark.parametrize(
    ("gone", "put"),
    [
        ("frontend prometheus", "frontend metrics"),
        ("listen stats", "listen statistics"),
        ("mode 666", "mode 777"),
        ("defaults\n", "defaults named\n"),
        ("bind 127.0.0.1:8000", ""),
    ],
)
def test_a_template_that_changed_is_not_started(gone: str, put: str) -> None:
    config = rendered()
    assert gone in config
    with pytest.raises(UnexpectedConfig):
        harden(config.replace(gone, put), 10)
