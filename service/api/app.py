"""The FastAPI application around a running service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from service import __version__
from service.api import health as wellbeing
from service.api.errors import add_error_handlers, described
from service.api.middleware import RequestMiddleware
from service.api.routes import (
    about,
    console,
    documentation,
    exit_policy,
    feedback,
    fits,
    health,
    hugging_face,
    ner,
    presidio,
    strategies,
    stream,
)
from service.api.schemas.hugging_face import HuggingFaceRequest
from service.api.schemas.ner import NerRequest
from service.api.schemas.presidio import AnalyzeRequest
from service.api.short_way import EntityCall
from service.api.state import Service

OF_EVERY_ROUTE = (400, 408, 421, 422, 429, 431, 500)  # of any head, any connection that is cut off, any fault of ours


def create_app(service: Service) -> FastAPI:
    """Return the app; it starts the engine when it starts, and lets it finish the admitted requests when it ends."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.engine.start()
        service.keeper.start()
        service.gold_keeper.start()
        service.fit_keeper.start()
        service.autopilot.start()
        if service.follower is not None:
            service.follower.start()
        if service.link is not None:
            service.link.start(lambda: wellbeing.described(service))
        yield
        if service.link is not None:
            service.link.close()
        if service.follower is not None:
            service.follower.close()
        service.autopilot.close()
        service.keeper.close()
        service.fit_keeper.close()
        service.cutter.close()
        service.engine.close()
        service.gold_keeper.close()
        service.tracing.close()

    app: FastAPI = FastAPIOffline(
        title="Named entities with early exit",
        version=__version__,
        lifespan=lifespan,
        static_url=documentation.ASSETS,
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = service
    calls = [
        EntityCall.of(ner.router, NerRequest, ner.ask),
        EntityCall.of(hugging_face.router, HuggingFaceRequest, hugging_face.ask),
        EntityCall.of(presidio.router, AnalyzeRequest, presidio.ask),
    ]
    app.add_middleware(RequestMiddleware, service=service, calls=calls)
    add_error_handlers(app)
    for routes in (
        ner,
        stream,
        hugging_face,
        presidio,
        exit_policy,
        feedback,
        fits,
        strategies,
        health,
        about,
        console,
        documentation,
    ):
        app.include_router(routes.router, responses=described(*OF_EVERY_ROUTE))
    return app
