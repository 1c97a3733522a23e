"""Everything that is not chat: models, health, and errors that Starlette itself raises."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from router.errors import ModelNotFound, RouterError
from router.http.auth import authenticate
from router.http.errors import error_wire, log_failure, method_not_allowed, not_found
from router.http.headers import json_headers, read_head, safe_value
from router.http.schemas_out import ErrorEnvelope, Health, Model, ModelList, Readiness
from router.http.wire import Wire, to_json
from router.request import Service

# Models are tiers, and tiers have no birthday; OpenAI's clients want a number of seconds.
MODELS_CREATED_S = 1_767_225_600
OWNER = "adaptive-compute-router"

_Responses = dict[int | str, dict[str, Any]]
_UNAUTHORIZED: _Responses = {401: {"model": ErrorEnvelope, "description": "invalid_api_key"}}
_NOT_FOUND: _Responses = {404: {"model": ErrorEnvelope, "description": "model_not_found"}}
_NOT_READY: _Responses = {503: {"model": Readiness, "description": "At least one component is not ready."}}


def add_pages(app: FastAPI, service: Service) -> None:
    """GET /v1/models, /v1/models/{id}, /healthz, /readyz."""

    @app.get("/v1/models", response_model=ModelList, responses=_UNAUTHORIZED, tags=["models"])
    async def list_models(request: Request) -> Response:
        """The models this key may use: `auto`, and the tiers by name."""
        head = read_head(request.scope)
        caller = authenticate(service, head)
        models = [_model(name) for name in service.models(caller)]
        return _json(head.request_id, {"object": "list", "data": models})

    @app.get("/v1/models/{id}", response_model=Model, responses=_UNAUTHORIZED | _NOT_FOUND, tags=["models"])
    async def get_model(id: str, request: Request) -> Response:
        """One model, if this key may use it."""
        head = read_head(request.scope)
        caller = authenticate(service, head)
        if id not in service.models(caller):
            raise ModelNotFound("Use one of the models that GET /v1/models lists.", param="model")
        return _json(head.request_id, _model(id))

    @app.get("/healthz", response_model=Health, tags=["health"])
    async def healthz(request: Request) -> Response:
        """200 while the process serves; depends on nothing else."""
        return _json(read_head(request.scope).request_id, {"status": "ok"})

    @app.get("/readyz", response_model=Readiness, responses=_NOT_READY, tags=["health"])
    async def readyz(request: Request) -> Response:
        """200 when every component can do its work, 503 with what is wrong otherwise."""
        head = read_head(request.scope)
        try:
            components = dict(await service.ready())
        except Exception as error:
            log_failure(error, head.request_id)
            components = {"service": "its readiness cannot be told"}
        ready = all(state == "ok" for state in components.values())
        content = {"status": "ready" if ready else "not ready", "components": components}
        return _json(head.request_id, content, 200 if ready else 503)


def add_error_handlers(app: FastAPI) -> None:
    """The envelope also for what no route of ours answers."""

    @app.exception_handler(RouterError)
    async def refused(request: Request, error: Exception) -> Response:
        return _respond(error_wire(error, read_head(request.scope).request_id))

    @app.exception_handler(HTTPException)
    async def by_starlette(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        request_id = read_head(request.scope).request_id
        if status == 404:
            return _respond(error_wire(not_found(), request_id))
        if status == 405:
            wire = error_wire(method_not_allowed(), request_id)
            allow = getattr(error, "headers", None) or {}
            wire.headers.append((b"allow", safe_value(allow.get("Allow", ""))))
            return _respond(wire)
        return _respond(error_wire(error, request_id))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return _respond(error_wire(error, read_head(request.scope).request_id))


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": MODELS_CREATED_S, "owned_by": OWNER}


def _json(request_id: str, content: object, status: int = 200) -> Response:
    return _respond(Wire(status, json_headers(request_id), to_json(content)))


def _respond(wire: Wire) -> Response:
    response = Response(wire.body, wire.status)
    response.raw_headers = [*wire.headers, (b"content-length", b"%d" % len(wire.body))]
    return response
