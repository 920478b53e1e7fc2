"""The exit policy over HTTP: read, change, history. What a change means is decided by the engine's controls."""

from __future__ import annotations

import re
import reprlib
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Header, Query, Request
from fastapi.responses import JSONResponse

from service.api.errors import described
from service.api.keys import require_admin, require_read
from service.api.state import service_of
from service.errors import PolicyConflict

router = APIRouter(prefix="/exit-policy")

_EXAMPLES = {
    "parameters": {"value": {"tau": -0.01, "patience": 1}},
    "goal": {"value": {"speedup": 2.0}},
    "preset": {"value": {"preset": "fast"}},
    "strategy": {"value": {"strategy": "budgeted", "layer": 3}},
    "rollback": {"value": {"rollback_to": 1}},
    "autopilot": {"value": {"autopilot": {"p95_ms": 100, "max_f1_loss": 1.0}}},
}


@router.get("", responses=described(401), dependencies=[Depends(require_read)])
async def read_policy(request: Request) -> JSONResponse:
    """The policy in force: parameters, expected and observed depth."""
    return _with_etag(service_of(request).controls.describe())


@router.patch(
    "",
    responses=described(401, 403, 412, 413, 422),
    openapi_extra={"requestBody": {"content": {"application/merge-patch+json": {"schema": {"type": "object"}}}}},
    dependencies=[Depends(require_admin)],
)
def change_policy(
    request: Request,
    changes: Annotated[dict[str, Any], Body(openapi_examples=_EXAMPLES)],
    dry_run: Annotated[bool, Query(description="answer as if, and change nothing")] = False,
    if_match: Annotated[str | None, Header(description="the ETag that was read")] = None,
    x_changed_by: Annotated[str | None, Header(max_length=200, description="who, for the history")] = None,
) -> JSONResponse:
    """Change parameters (JSON merge patch) or set one goal; requests that start from now on follow it."""
    described = service_of(request).controls.change(
        changes, source="api", changed_by=x_changed_by, if_version=_version(if_match), dry_run=dry_run
    )
    return JSONResponse(described) if dry_run else _with_etag(described)  # that version may yet be somebody else's


@router.get("/history", responses=described(401), dependencies=[Depends(require_read)])
async def read_history(request: Request) -> list[dict[str, Any]]:
    """Every change, newest first."""
    return service_of(request).controls.history()


@router.get("/operating-points", responses=described(401), dependencies=[Depends(require_read)])
async def read_operating_points(request: Request) -> list[dict[str, Any]]:
    """The calibrated front, cheapest first; empty for a model that has not been calibrated."""
    return service_of(request).controls.operating_points()


def _with_etag(described: dict[str, Any]) -> JSONResponse:
    version = str(described["version"])
    return JSONResponse(described, headers={"ETag": f'"{version}"', "X-Exit-Policy-Version": version})


def _version(if_match: str | None) -> int | None:
    """The version that an If-Match header names; None for no header or `*`."""
    if if_match is None or if_match.strip() == "*":
        return None
    tag = re.fullmatch(r'(?:W/)?"?(\d{1,18})"?', if_match.strip())
    if tag is None:
        raise PolicyConflict(f"If-Match is {reprlib.repr(if_match)}; expected an ETag that GET /exit-policy gave")
    return int(tag[1])
