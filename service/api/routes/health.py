"""GET /livez, /readyz and /health, for orchestrators and load balancers. They never need a key."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from service.api.exact_route import ExactRoute
from service.api.health import liveness, readiness
from service.api.respond import respond
from service.api.schemas.about import Health
from service.api.state import service_of

router = APIRouter(route_class=ExactRoute)

_UNWELL: dict[int | str, dict[str, Any]] = {503: {"model": Health}}


@router.get("/livez", response_model=Health, responses=_UNWELL)
async def livez(request: Request) -> Response:
    """Answer 200 while the engine can make progress: also when it is idle, but not while a step is overdue."""
    service = service_of(request)
    service.heartbeat.beat()  # whoever answers here is the event loop
    return _status(*liveness(service))


@router.get("/readyz", response_model=Health, responses=_UNWELL)
@router.get("/health", response_model=Health, responses=_UNWELL)
async def readyz(request: Request) -> Response:
    """Answer 200 from the end of the warm-up to the first SIGTERM, while the engine can make progress."""
    service = service_of(request)
    service.heartbeat.beat()
    return _status(*readiness(service))


def _status(status: str, good: bool) -> Response:
    return respond(Health, {"status": status}, status=200 if good else 503)
