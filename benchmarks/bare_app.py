"""The least a Ray Serve service can do: answer, or ask a second deployment first."""

from typing import Any

from ray import serve


@serve.deployment(num_replicas=1, max_ongoing_requests=1024, ray_actor_options={"num_cpus": 0.1})
class Worker:
    async def work(self, text: str) -> str:
        return text


@serve.deployment(num_replicas=1, max_ongoing_requests=1024, ray_actor_options={"num_cpus": 0.1})
@serve.ingress()
class Bare:
    """/noop and /hop, in plain ASGI: nothing that could be left out."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker

    async def __serve_build_asgi_app__(self) -> Any:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "lifespan":
                while (await receive())["type"] != "lifespan.shutdown":
                    await send({"type": "lifespan.startup.complete"})
                await send({"type": "lifespan.shutdown.complete"})
                return
            while (await receive()).get("more_body"):
                pass
            if scope["path"].endswith("/hop"):
                await self._worker.work.remote("x")
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
            await send({"type": "http.response.body", "body": b"ok"})

        return app


def bare_app() -> serve.Application:
    return Bare.bind(Worker.bind())
