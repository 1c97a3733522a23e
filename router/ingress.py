"""The Serve ingress: the HTTP application over the pipeline over tier handles. Nothing but wiring."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import contextmanager
from typing import Any

from grpc.aio import AioRpcError
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve import metrics
from ray.serve.exceptions import BackPressureError, RayServeException

from backends.task import TierEvent, TierResult, TierTask
from router.assembly import Assembly
from router.config import AppConfig
from router.drift.gauges import COUNTERS, GAUGES
from router.errors import Overloaded, TierUnavailable
from router.serve_logs import log_to_serve

# What a call may take beyond the task's own time: the queue in front of the tier, and its bookkeeping.
CALL_GRACE_S = 10.0
HEALTH_TIMEOUT_S = 3.0
RETRY_AFTER_S = 2.0
_REQUEST_ID = b"x-request-id"


class HandleTiers:
    """A `TierClient` over Serve handles: deployment's errors become ours, the tier's own stay as they are."""

    def __init__(self, handles: Mapping[str, Any]) -> None:
        self._handles = dict(handles)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._handles)

    async def run(self, tier: str, task: TierTask) -> TierResult:
        response = self._handle(tier).run.remote(task)
        with _translated(tier, response):
            async with asyncio.timeout(task.timeout_s + CALL_GRACE_S):
                result: TierResult = await response
                return result

    async def stream(self, tier: str, task: TierTask) -> AsyncGenerator[TierEvent, None]:
        response = self._handle(tier).options(stream=True).stream.remote(task)
        deadline_s = asyncio.get_running_loop().time() + task.timeout_s + CALL_GRACE_S
        try:
            while True:
                with _translated(tier, response):
                    async with asyncio.timeout_at(deadline_s):
                        event: TierEvent | None = await anext(response, None)
                if event is None:
                    return
                yield event
        finally:
            response.cancel()  # without an await: Serve kills those in a generator whose client is gone

    async def healthy(self, tier: str) -> bool:
        try:
            async with asyncio.timeout(HEALTH_TIMEOUT_S):
                return bool(await self._handle(tier).healthy.remote())
        except Exception:
            return False

    def _handle(self, tier: str) -> Any:
        try:
            return self._handles[tier]
        except KeyError:
            raise TierUnavailable(f"The tier {tier} is not deployed here; ask for auto.") from None


@contextmanager
def _translated(tier: str, response: Any) -> Any:
    """Ends the call when its caller is cancelled, and turns what Ray and Serve raise into our errors."""
    try:
        yield
    except asyncio.CancelledError as error:
        response.cancel()
        current = asyncio.current_task()
        if current is not None and current.cancelling():
            raise
        # Nobody cancelled us: it is the replica's own cancellation (it shuts down), sent to its caller.
        raise _unavailable(tier, "was shut down while it answered") from error
    except TimeoutError as error:
        response.cancel()
        raise _unavailable(tier, "did not answer in time") from error
    except BackPressureError as error:
        raise Overloaded(
            f"The tier {tier} has no room in its queue; ask again.", retry_after_s=RETRY_AFTER_S
        ) from error
    except RayTaskError as error:
        # The tier raised `cause`. Ray would hand us a class of both, which `except` clauses find but
        # which cannot be pickled again and prints the remote traceback.
        raise error.cause from None
    except (RayError, RayServeException, AioRpcError) as error:
        raise _unavailable(tier, "is not reachable") from error


def _unavailable(tier: str, problem: str) -> TierUnavailable:
    return TierUnavailable(f"The tier {tier} {problem}; ask again.", retry_after_s=RETRY_AFTER_S)


class OneRequestId:
    """ASGI: leaves x-request-id to Serve where Serve adds it.

    Serve puts one into every request that has none, and the request's own into every response, after the
    application: its header would be there twice, and clients read "id, id".
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_once(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = [pair for pair in message["headers"] if pair[0].lower() != _REQUEST_ID]
                message = {**message, "headers": headers}
            await send(message)

        serve_adds_it = any(name == _REQUEST_ID for name, _ in scope.get("headers", ()))
        await self._app(scope, receive, send_once if serve_adds_it else send)


class RayGauges:
    """`Gauges` in Ray's metrics: Prometheus finds them at each node, a replica each, as `ray_acr_...`."""

    def __init__(self) -> None:
        self._labels = {name: label for name, (_, label) in GAUGES.items()}
        self._gauges = {
            name: metrics.Gauge(name, description=said, tag_keys=(label,) if label else None)
            for name, (said, label) in GAUGES.items()
        }
        self._counters = {name: metrics.Counter(name, description=said) for name, said in COUNTERS.items()}

    def set(self, name: str, value: float, label: str | None = None) -> None:
        key = self._labels[name]
        self._gauges[name].set(value, tags={key: label} if key and label else {})

    def add(self, name: str, count: int) -> None:
        self._counters[name].inc(count)


@serve.deployment
@serve.ingress()
class Ingress:
    """Serves HTTP. The application is built in the replica, so `create_app` is plain FastAPI."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, config: AppConfig, tiers: Mapping[str, Any], classifier: Any = None
    ) -> None:
        log_to_serve("acr", "router", "policies", "classifier")
        self._assembly = Assembly(config, HandleTiers(tiers), classifier, RayGauges())
        await self._assembly.start()

    async def __serve_build_asgi_app__(self) -> Any:
        return OneRequestId(self._assembly.app())

    async def __del__(self) -> None:
        """Serve awaits this when the replica shuts down."""
        if hasattr(self, "_assembly"):
            await self._assembly.aclose()
        await super().__del__()  # type: ignore[misc]  # Serve's part, mixed in: the application's lifespan

    async def check_health(self) -> None:
        """The process answers, and nothing more: a replica must not die because a store does."""
