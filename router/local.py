"""The local stack: embedded Valkey, a private Ray on loopback, the service on it; all of it or nothing."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from policies.keys import hash_key
from router import serve_env
from router.config import AppConfig
from router.leftovers import end_processes
from router.ports import HOST, free_port
from router.preflight import check_files, check_fits, one_line, ping_store
from router.startup import Interrupted, Say, Signals, StartupError, Steps, say_nothing
from router.state import RunRecord, StateDir, write_private
from router.valkey import ValkeyProcess

APP_NAME = "acr"
BUDGETS_MIB, CACHE_MIB = 256, 64
OBJECT_STORE_BYTES = 150_000_000
READY_TIMEOUT_S = 180.0
HTTP_TIMEOUT_S = 30.0
POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class LocalStack:
    """A stack that runs. `keys` maps each tenant of the policy to its key, `key_files` to where it lies."""

    base_url: str
    keys: Mapping[str, str]
    key_files: Mapping[str, Path]
    start_s: float

    def answers(self) -> bool:
        """Does the service still say that it is alive?"""
        try:
            return httpx.get(f"{self.base_url}/healthz", timeout=5.0, trust_env=False).is_success
        except httpx.HTTPError:
            return False


@contextmanager
def local_stack(
    config: AppConfig, *, port: int = 8000, state_dir: Path | None = None, say: Say = say_nothing
) -> Iterator[LocalStack]:
    """Run the service on this machine while the `with` lasts, and stop all of it after.

    `port` 0 is any free one. REDIS_URL and CACHE_REDIS_URL, where set, are used instead of an embedded
    Valkey. Needs the main thread (signals) of a process that has not imported `ray` (it reads its
    environment only then). Raises StartupError, after stopping what had started; Interrupted on SIGINT
    and SIGTERM.
    """
    steps = Steps(say)
    state = StateDir(state_dir)
    with Signals() as signals, ExitStack() as stack:
        try:
            stack.enter_context(state.claimed())
            if ended := state.clear_leftovers():
                say(f"ended {ended} processes that a killed stack had left behind")
            tenants = check_files(config)
            port = free_port(port)
            record = state.new_run()
            stack.callback(state.forget, record)
            stack.callback(end_processes, record.stack_id)
            keys = state.keys(tenants)
            with steps.step("stores"):
                urls = _stores(stack, state, Path(record.run_dir))
            record = _told(record, port, urls)
            state.write_record(record)
            stack.enter_context(serve_env.applied(_environment(record) | urls))
            with steps.step("ray"):
                _start_ray(stack, config, Path(record.run_dir))
                signals.install()  # Ray has put its own in place
            with steps.step("serve"):
                _start_serve(port)
            owners = {hash_key(key): tenant for tenant, key in keys.items()}
            _deploy(steps, config.model_copy(update={"local_keys": owners}))
            _await_ready(record.base_url)
            files = {tenant: state.key_file(tenant) for tenant in tenants}
            try:
                yield LocalStack(record.base_url, keys, files, steps.elapsed_s)
            finally:
                say("stopping")
        finally:
            signals.ignore()


def _stores(stack: ExitStack, state: StateDir, run_dir: Path) -> dict[str, str]:
    """REDIS_URL and CACHE_REDIS_URL: those of the environment, or of Valkeys started here."""
    urls = {"ACR_CACHE_SECRET": os.environ.get("ACR_CACHE_SECRET") or state.secret()}
    for variable, name, mib, data in (
        ("REDIS_URL", "budgets", BUDGETS_MIB, state.path / "budgets"),
        ("CACHE_REDIS_URL", "cache", CACHE_MIB, None),
    ):
        url = os.environ.get(variable)
        if url:
            ping_store(variable, url)
        else:
            valkey = stack.enter_context(ValkeyProcess(name, run_dir, max_memory_mib=mib, data_dir=data))
            url = valkey.url
        urls[variable] = url
    return urls


def _told(record: RunRecord, port: int, urls: Mapping[str, str]) -> RunRecord:
    return replace(
        record,
        base_url=f"http://{HOST}:{port}",
        redis_url=urls["REDIS_URL"],
        cache_redis_url=urls["CACHE_REDIS_URL"],
    )


def _environment(record: RunRecord) -> dict[str, str]:
    run_dir = Path(record.run_dir)
    token_file = run_dir / "ray-token"
    write_private(token_file, secrets.token_hex(32))
    local = serve_env.LocalRay(
        stack_id=record.stack_id,
        run_dir=run_dir,
        token_file=token_file,
        fallback_port=free_port(0),
        cpus=os.cpu_count() or 1,
    )
    return serve_env.local_environment(local, serve_env.find_haproxy())


def _start_ray(stack: ExitStack, config: AppConfig, run_dir: Path) -> None:
    """A Ray of our own: it neither joins one that runs here nor is found by others (`_temp_dir`)."""
    import ray

    stack.callback(_stop_ray)
    try:
        ray.init(
            address="local",
            # What replicas set aside must fit, however few cores there are; threads share what there is.
            num_cpus=max(2, os.cpu_count() or 1),
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"worker_process_setup_hook": "router.serve_env.bind_to_loopback"},
            _temp_dir=str(run_dir / "ray"),
        )
    except SystemExit as ended:  # from Ray's own SIGTERM handler, which replaces ours while it starts
        raise Interrupted("SIGTERM") from ended
    except Exception as error:  # on a busy machine Ray raises a bare Exception when its processes come late
        raise StartupError(f"Ray did not start: {one_line(str(error))}") from error
    check_fits(config, ray.cluster_resources())  # type: ignore[no-untyped-call]


def _stop_ray() -> None:
    """Serve first, gracefully: leases are settled. Ray prints how its controller ended; nobody asked."""
    import ray
    from ray import serve

    with contextlib.redirect_stdout(io.StringIO()):
        try:
            if ray.is_initialized():
                serve.shutdown()  # type: ignore[no-untyped-call]
        finally:
            ray.shutdown()


def _start_serve(port: int) -> None:
    from ray import serve
    from ray.exceptions import RayError

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    try:
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": HOST, "port": port},
            logging_config={"log_level": "WARNING", "enable_access_log": False},
        )
    except RayError as error:  # the port was taken in the meantime, say
        raise StartupError(f"Ray Serve did not start: {one_line(str(error))}") from error


def _deploy(steps: Steps, config: AppConfig) -> None:
    """Raises StartupError where a deployment fails, with what it said, or is not up in time."""
    from ray import serve

    from router.app import build_app

    target = serve.RunTarget(build_app(config), name=APP_NAME, route_prefix="/")
    serve.run_many([target], wait_for_applications_running=False)
    waiting: set[str] | None = None
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline_s:
        app = serve.status().applications.get(APP_NAME)
        if app is not None:
            waiting = set(app.deployments) if waiting is None else waiting
            for name in sorted(waiting):
                if app.deployments[name].status == "HEALTHY":
                    waiting.discard(name)
                    steps.tell(name)
            if app.status == "RUNNING":
                return
            if app.status in ("DEPLOY_FAILED", "UNHEALTHY"):
                told = [each.message for each in app.deployments.values() if each.message] or [app.message]
                raise StartupError(f"the service did not start: {one_line(told[-1])}")
        time.sleep(POLL_S)
    raise StartupError(f"the service was not up within {READY_TIMEOUT_S:g} s; waiting for {waiting}")


def _await_ready(base_url: str) -> None:
    problem = "it does not answer"
    deadline_s = time.monotonic() + HTTP_TIMEOUT_S
    while time.monotonic() < deadline_s:
        try:
            reply = httpx.get(f"{base_url}/readyz", timeout=5.0, trust_env=False)
            if reply.status_code == httpx.codes.OK:
                return
            problem = one_line(reply.text)
        except httpx.HTTPError as error:
            problem = type(error).__name__
        time.sleep(POLL_S)
    raise StartupError(f"the service is up and not ready: {problem}")
