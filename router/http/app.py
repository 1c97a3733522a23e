"""The HTTP application over a service: plain FastAPI, nothing of Ray in it."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.routing import Route

from router.http.chat import ChatEndpoint, ExplainEndpoint
from router.http.docs import add_docs
from router.http.feedback import FeedbackEndpoint
from router.http.once import Once
from router.http.openapi import DESCRIPTION, TITLE, VERSION, describe
from router.http.pages import add_error_handlers, add_pages
from router.http.settings import HttpSettings
from router.idempotency import IdempotencyStore, MemoryIdempotency
from router.request import Service


def create_app(
    service: Service, *, settings: HttpSettings | None = None, idempotency: IdempotencyStore | None = None
) -> FastAPI:
    """Serve `service` as http-api.md says. Idempotency keys are kept in this process unless a store is given.

    Chat is a bare ASGI route: no middleware of ours, no dependency injection, no response model.
    """
    settings = settings or HttpSettings()
    once = Once(idempotency or MemoryIdempotency())
    app = FastAPI(
        title=TITLE,
        version=VERSION,
        description=DESCRIPTION,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json" if settings.docs else None,
    )
    chat, explain = ChatEndpoint(service, settings, once), ExplainEndpoint(service, settings)
    app.state.once = once  # its owner ends it: its runs outlive their connections
    # First in the list: the router looks at routes in order.
    app.router.routes.insert(0, Route("/v1/chat/completions", chat, methods=["POST"], name="chat"))
    app.router.routes.append(Route("/v1/explain", explain, methods=["POST"], name="explain"))
    feedback = FeedbackEndpoint(service, settings)
    app.router.routes.append(Route("/v1/feedback", feedback, methods=["POST"], name="feedback"))
    add_pages(app, service)
    add_error_handlers(app)
    if settings.docs:
        describe(app)
        add_docs(app)
    return app
