"""The least a Ray Serve service can do: answer, or ask a second deployment first."""

from typing import Any

from ray import serve


@serve.deployment(num_replicas=1, max_ongoing_requests=1024, ray_actor_options={"num_cpus": 0.1})
class Worker:
    async def work(self, text: str) -> str:
        return text


@serve.deployment(num_replicas=1, max_ongoing_requests=1024, ray_actor_options={"num_cpus": 0.1})
class Bare:
    """/noop and /hop as Serve's own documentation would write them; the body is read and not looked at."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker

    async def __call__(self, request: Any) -> str:
        await request.body()
        if request.url.path.endswith("/hop"):
            return str(await self._worker.work.remote("ok"))
        return "ok"


def bare_app() -> serve.Application:
    return Bare.bind(Worker.bind())  # type: ignore[attr-defined, no-any-return]  # the decorator is untyped
