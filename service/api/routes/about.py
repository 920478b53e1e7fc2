"""GET /models, /info and /metrics: what runs here, on what, and how it does."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

from service.api.errors import described
from service.api.exact_route import ExactRoute
from service.api.health import render_metrics
from service.api.keys import require_read
from service.api.respond import respond
from service.api.schemas.about import InfoOut, LimitsOut, ModelOut
from service.api.state import service_of

router = APIRouter(route_class=ExactRoute)


@router.get("/models", response_model=list[ModelOut], responses=described(401), dependencies=[Depends(require_read)])
async def models(request: Request) -> Response:
    """Return the model being served, with its card: what it was trained on and what that allows."""
    service = service_of(request)
    config = service.config
    served: ModelOut = {
        "name": config.name,
        "version": config.version,
        "labels": list(config.labels),
        "nested": config.nested,
        "num_layers": config.num_layers,
        "hidden_size": config.encoder.hidden_size,
        "strategies": service.policy.catalog.strategies,
        "card": service.card,
    }
    return respond(list[ModelOut], [served])


@router.get("/info", response_model=InfoOut, responses=described(401), dependencies=[Depends(require_read)])
async def info(request: Request) -> Response:
    """Return device, executor, limits and versions."""
    service = service_of(request)
    limits = {name: getattr(service.settings, name) for name in LimitsOut.__annotations__}
    return respond(InfoOut, {"model": service.model_reference, **service.environment, "limits": limits})


@router.get("/metrics", response_class=PlainTextResponse, responses=described(503))
def metrics(request: Request) -> Response:
    """Return the metrics in Prometheus' text format."""
    return Response(render_metrics(service_of(request)), media_type=CONTENT_TYPE_LATEST)
