"""GET /exit-policy/strategies: what strategies there are, and their parameters with ranges, defaults and meanings."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request

from service.api.errors import described
from service.api.exact_route import ExactRoute
from service.api.keys import require_read
from service.api.state import service_of
from service.exits.description import StrategyDescription, describe

router = APIRouter(route_class=ExactRoute)


@router.get("/exit-policy/strategies", responses=described(401), dependencies=[Depends(require_read)])
async def read_strategies(request: Request) -> list[StrategyDescription]:
    """Return every exit strategy: what it decides by, its parameters, and what this model lacks for it, if anything."""
    return describe(service_of(request).policy.catalog)
