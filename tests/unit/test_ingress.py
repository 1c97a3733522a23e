"""The ingress's two adapters without Ray Serve: errors of handles, and the request id."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import pytest
from ray.exceptions import ActorUnavailableError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException

from backends.engines.base import Message, Sampling
from backends.errors import ContextOverflow, EngineUnavailable
from backends.task import Spend, StrategyParams, TextDelta, TierResult, TierTask
from router import ingress
from router.errors import Overloaded, TierUnavailable
from router.ingress import HandleTiers, OneRequestId

RESULT = TierResult("direct", ("4",), "4", "stop", "done", None, None, 1, 1, 0, Spend(calls=1))


def task(timeout_s: float = 5.0) -> TierTask:
    return TierTask(
        "lease", "direct", (Message("user", "2 + 2"),), Sampling(8), StrategyParams(), 100, timeout_s
    )


class Response:
    """What a handle's call gives: awaited for one result, iterated for many."""

    def __init__(self, *events: Any, hangs: bool = False) -> None:
        self.events = list(events)
        self.hangs = hangs
        self.cancelled = 0

    async def _next(self) -> Any:
        if self.hangs and not self.events:
            await asyncio.Event().wait()
        if not self.events:
            raise StopAsyncIteration
        event = self.events.pop(0)
        if isinstance(event, BaseException):
            raise event
        return event

    def __await__(self) -> Any:
        return self._next().__await__()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        return await self._next()

    def cancel(self) -> None:
        self.cancelled += 1


class Handle:
    """A deployment handle with one prepared response for every method."""

    def __init__(self, response: Response) -> None:
        self.response = response
        self.tasks: list[Any] = []

    def options(self, *, stream: bool) -> Handle:
        assert stream
        return self

    def __getattr__(self, method: str) -> Any:
        return self

    def remote(self, *arguments: Any) -> Response:
        self.tasks += arguments
        return self.response


def tiers(response: Response) -> HandleTiers:
    return HandleTiers({"direct": Handle(response)})


async def collect(client: HandleTiers, **changes: Any) -> list[Any]:
    return [event async for event in client.stream("direct", task(**changes))]


async def test_a_result() -> None:
    assert await tiers(Response(RESULT)).run("direct", task()) == RESULT


async def test_a_stream() -> None:
    response = Response(TextDelta("4"), RESULT)
    assert await collect(tiers(response)) == [TextDelta("4"), RESULT]


def test_the_names_are_those_of_the_handles() -> None:
    assert tiers(Response()).names == ("direct",)


async def test_a_tier_that_is_not_deployed() -> None:
    client = tiers(Response(RESULT))
    with pytest.raises(TierUnavailable, match="search is not deployed"):
        await client.run("search", task())
    with pytest.raises(TierUnavailable):
        await anext(client.stream("search", task()))
    assert not await client.healthy("search")


def unavailable_actor() -> Exception:
    return ActorUnavailableError("gone", b"\0" * 16)


def task_error(cause: Exception) -> RayTaskError:
    return RayTaskError("run", "a remote traceback", cause)


UNREACHABLE: list[Callable[[], Exception]] = [
    unavailable_actor,
    lambda: DeploymentUnavailableError("x"),
    lambda: RayServeException("an upstream actor died"),
    TimeoutError,
]


@pytest.mark.parametrize("error", UNREACHABLE)
async def test_a_tier_that_cannot_be_reached_is_unavailable(error: Callable[[], Exception]) -> None:
    with pytest.raises(TierUnavailable) as caught:
        await tiers(Response(error())).run("direct", task())
    assert caught.value.retry_after_s
    with pytest.raises(TierUnavailable):
        await collect(tiers(Response(TextDelta("4"), error())))


async def test_a_full_queue_is_overload() -> None:
    with pytest.raises(Overloaded) as caught:
        await tiers(Response(BackPressureError(64, 64))).run("direct", task())
    assert caught.value.retry_after_s
    with pytest.raises(Overloaded):
        await collect(tiers(Response(BackPressureError(64, 64))))


@pytest.mark.parametrize(
    "wrap", [lambda error: error, task_error, lambda e: task_error(e).as_instanceof_cause()]
)
async def test_a_tier_s_own_error_stays_itself(wrap: Callable[[Exception], Exception]) -> None:
    """Over gRPC it comes as it is, over the object store wrapped; it must be the same to the pipeline."""
    error = ContextOverflow(10, 5)
    error.spend = Spend(prompt_computed=3)
    with pytest.raises(ContextOverflow) as caught:
        await tiers(Response(wrap(error))).run("direct", task())
    assert type(caught.value) is ContextOverflow
    assert caught.value.spend == Spend(prompt_computed=3)
    assert "remote traceback" not in str(caught.value)


def test_errors_keep_what_was_spent_across_processes() -> None:
    for error in (ContextOverflow(10, 5), EngineUnavailable("down")):
        error.spend = Spend(completion_discarded=7)
        copy = pickle.loads(pickle.dumps(error))  # noqa: S301  Serve does so
        assert type(copy) is type(error)
        assert str(copy) == str(error)
        assert copy.spend == error.spend


@pytest.mark.parametrize("wrap", [lambda error: error, task_error])
async def test_a_bug_in_a_tier_is_not_hidden(wrap: Callable[[Exception], Exception]) -> None:
    with pytest.raises(ZeroDivisionError):
        await tiers(Response(wrap(ZeroDivisionError("bug")))).run("direct", task())


async def test_a_cancelled_caller_cancels_the_call() -> None:
    response = Response(hangs=True)
    call = asyncio.create_task(tiers(response).run("direct", task()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert response.cancelled == 1


async def test_a_cancelled_stream_cancels_the_call() -> None:
    response = Response(TextDelta("4"), hangs=True)
    call = asyncio.create_task(collect(tiers(response)))
    for _ in range(5):
        await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert response.cancelled >= 1


async def test_a_stream_that_is_closed_early_cancels_the_call() -> None:
    response = Response(TextDelta("4"), RESULT)
    async with aclosing(tiers(response).stream("direct", task())) as events:
        await anext(events)
        assert response.cancelled == 0
    assert response.cancelled == 1


async def test_a_replica_s_own_cancellation_is_not_the_caller_s() -> None:
    """A replica that shuts down sends its CancelledError; whoever waits was not cancelled."""
    with pytest.raises(TierUnavailable, match="shut down"):
        await tiers(Response(asyncio.CancelledError())).run("direct", task())
    with pytest.raises(TierUnavailable, match="shut down"):
        await collect(tiers(Response(TextDelta("4"), asyncio.CancelledError())))


async def test_a_tier_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingress, "CALL_GRACE_S", 0.02)
    for response in (Response(hangs=True), Response(TextDelta("4"), hangs=True)):
        with pytest.raises(TierUnavailable, match="in time"):
            await collect(tiers(response), timeout_s=0.01)
        assert response.cancelled >= 1
    response = Response(hangs=True)
    with pytest.raises(TierUnavailable, match="in time"):
        await tiers(response).run("direct", task(timeout_s=0.01))
    assert response.cancelled == 1


@pytest.mark.parametrize(("said", "well"), [(True, True), (False, False), (unavailable_actor(), False)])
async def test_health(said: Any, well: bool) -> None:
    assert await tiers(Response(said)).healthy("direct") is well


async def test_health_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingress, "HEALTH_TIMEOUT_S", 0.01)
    assert not await tiers(Response(hangs=True)).healthy("direct")


# -- the request id


async def headers_of(request_headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"X-Request-Id", b"ours"), (b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"x"})

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await OneRequestId(app)({"type": "http", "headers": request_headers}, None, send)
    assert sent[1] == {"type": "http.response.body", "body": b"x"}
    return list(sent[0]["headers"])


async def test_serve_s_request_id_is_the_only_one() -> None:
    assert await headers_of([(b"x-request-id", b"theirs")]) == [(b"content-type", b"text/plain")]


async def test_without_one_from_serve_ours_stays() -> None:
    assert (b"X-Request-Id", b"ours") in await headers_of([(b"host", b"x")])


async def test_lifespan_passes() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    await OneRequestId(app)({"type": "lifespan"}, None, None)
    assert seen == ["lifespan"]
