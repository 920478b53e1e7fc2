"""The exit policy over HTTP: read, change, history. What a change means is decided by the live policy."""

from __future__ import annotations

import re
import reprlib
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Header, Query, Request, Response
from pydantic import WithJsonSchema

from service.api.errors import described
from service.api.keys import require_admin, require_read
from service.api.respond import respond
from service.api.schemas.exit_policy import (
    CHANGES,
    EXAMPLES,
    ExitPolicyOut,
    HistoryEntryOut,
    OperatingPointOut,
    ShadowOut,
)
from service.api.state import service_of
from service.errors import PolicyConflict
from service.exits.disagreement import Disagreement
from service.policy.versions import HistoryEntry, PolicyState

router = APIRouter(prefix="/exit-policy")

_CHANGES = {"schema": CHANGES, "examples": EXAMPLES}


@router.get("", response_model=ExitPolicyOut, responses=described(401), dependencies=[Depends(require_read)])
async def read_policy(request: Request) -> Response:
    """Return the policy in force: its parameters, and its expected and observed depth."""
    return _with_etag(service_of(request).policy.describe())


@router.patch(
    "",
    response_model=ExitPolicyOut,
    responses=described(401, 403, 412, 413, 422),
    openapi_extra={"requestBody": {"content": {"application/merge-patch+json": _CHANGES}}},
    dependencies=[Depends(require_admin)],
)
def change_policy(
    request: Request,
    changes: Annotated[dict[str, Any], Body(openapi_examples=EXAMPLES), WithJsonSchema(CHANGES)],
    dry_run: Annotated[bool, Query(description="answer as if, and change nothing")] = False,
    if_match: Annotated[str | None, Header(description="the ETag that was read")] = None,
    x_changed_by: Annotated[str | None, Header(max_length=200, description="who, for the history")] = None,
) -> Response:
    """Change parameters (JSON merge patch) or set one goal; requests that start from now on follow it."""
    state = service_of(request).policy.change(
        changes, source="api", changed_by=x_changed_by, if_version=_version(if_match), dry_run=dry_run
    )
    if dry_run:  # another change may yet get this version
        return respond(ExitPolicyOut, _policy(state))
    return _with_etag(state)


@router.get(
    "/history", response_model=list[HistoryEntryOut], responses=described(401), dependencies=[Depends(require_read)]
)
async def read_history(request: Request) -> Response:
    """Return every change, newest first."""
    return respond(list[HistoryEntryOut], [_entry(entry) for entry in service_of(request).policy.history()])


@router.get(
    "/operating-points",
    response_model=list[OperatingPointOut],
    responses=described(401),
    dependencies=[Depends(require_read)],
)
async def read_operating_points(request: Request) -> Response:
    """Return the calibrated operating points, cheapest first; none for a model that has not been calibrated."""
    points = service_of(request).policy.operating_points()
    return respond(list[OperatingPointOut], [point.to_json() for point in points])


def _with_etag(state: PolicyState) -> Response:
    headers = {"ETag": f'"{state.version}"', "X-Exit-Policy-Version": str(state.version)}
    return respond(ExitPolicyOut, _policy(state), headers=headers)


def _policy(state: PolicyState) -> dict[str, Any]:
    version, observed = state.in_force, state.observed
    levels = {"level": version.level, "highest_level": state.highest_level}
    return {
        **version.policy.to_json(),
        "version": version.version,
        "updated_at": version.updated_at,
        "updated_by": version.updated_by,
        "preset": state.preset,
        "expected": version.expected,
        "observed": {
            "average_exit_layer": observed.average_exit_layer,
            "sequences": observed.sequences,
            "since": observed.since,
            "shadow": _shadow(observed.shadow),
        },
        "autopilot": {**asdict(version.objective), **levels} if version.objective else None,
    }


def _shadow(found: Disagreement) -> ShadowOut:
    return {
        "runs": found.runs,
        "disagreements": found.disagreements,
        "disagreement_rate": found.rate,
        "disagreement_interval": found.interval if found.runs else None,
    }


def _entry(entry: HistoryEntry) -> HistoryEntryOut:
    return {
        "version": entry.version,
        "at": entry.at,
        "by": entry.by,
        "changed_by": entry.changed_by,
        "before": entry.before.to_json() if entry.before else None,
        "after": entry.after.to_json(),
    }


def _version(if_match: str | None) -> int | None:
    """Return the version that an If-Match header names; None for no header or `*`. Raises PolicyConflict."""
    if if_match is None or if_match.strip() == "*":
        return None
    tag = re.fullmatch(r'(?:W/)?"?(\d{1,18})"?', if_match.strip())
    if tag is None:
        raise PolicyConflict(f"If-Match is {reprlib.repr(if_match)}; expected an ETag that GET /exit-policy gave")
    return int(tag[1])
