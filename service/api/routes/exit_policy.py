"""The exit policy over HTTP: read, change, history. What a change means is decided by the live policy."""

from __future__ import annotations

import re
import reprlib
from contextlib import suppress
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Header, Query, Request, Response
from pydantic import WithJsonSchema

from service.api.bodies import BodyRoute
from service.api.errors import described
from service.api.keys import require_admin, require_read
from service.api.respond import respond
from service.api.schemas.exit_policy import (
    CHANGES,
    EXAMPLES,
    ExitPolicyOut,
    GoldOut,
    HistoryEntryOut,
    LevelsOut,
    OperatingPointOut,
    ShadowOut,
)
from service.api.schemas.ner import MOST_PARAMETERS
from service.api.state import Service, service_of
from service.errors import BadInput
from service.exits.disagreement import Disagreement
from service.exits.operating_points import OperatingPoint
from service.levels.on_traffic import Measured
from service.policy.versions import HISTORY_LENGTH, HistoryEntry, PolicyState
from service.promise.estimates import Estimate
from service.promise.gold import GoldEstimate

router = APIRouter(prefix="/exit-policy", route_class=BodyRoute)

MAX_NAME_CHARS = 200
_ETAG = r'(?:W/)?"?\d{1,18}"?'

_CHANGES = {"schema": CHANGES, "examples": EXAMPLES}


@router.get("", response_model=ExitPolicyOut, responses=described(401), dependencies=[Depends(require_read)])
async def read_policy(request: Request) -> Response:
    """Return the policy in force: its parameters, and its expected and observed depth."""
    return _with_etag(service_of(request).policy.describe())


@router.patch(
    "",
    response_model=ExitPolicyOut,
    responses=described(401, 403, 412, 413, 415, 422, 503),
    openapi_extra={"requestBody": {"content": {"application/merge-patch+json": _CHANGES}}},
    dependencies=[Depends(require_admin)],
)
def change_policy(
    request: Request,
    changes: Annotated[
        dict[str, Any], Body(max_length=MOST_PARAMETERS, openapi_examples=EXAMPLES), WithJsonSchema(CHANGES)
    ],
    dry_run: Annotated[bool, Query(description="answer as if, and change nothing")] = False,
    if_match: Annotated[str | None, Header(description="the ETag that was read")] = None,
    x_changed_by: Annotated[str | None, Header(description="who, in UTF-8, for the history")] = None,
) -> Response:
    """Change parameters (JSON merge patch) or set one goal; requests that start from now on follow it."""
    state = service_of(request).policy.change(
        changes, source="api", changed_by=_name(x_changed_by), if_versions=_versions(if_match), dry_run=dry_run
    )
    if dry_run:  # without an ETag, since another change may yet get this version
        return respond(ExitPolicyOut, {**_policy(state), "dry_run": True})
    return _with_etag(state)


@router.get(
    "/history", response_model=list[HistoryEntryOut], responses=described(401), dependencies=[Depends(require_read)]
)
async def read_history(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=HISTORY_LENGTH, description="at most so many changes")] = 100,
    before: Annotated[int | None, Query(ge=1, description="only changes before this version")] = None,
) -> Response:
    """Return the changes, newest first; the header Link names the page of older ones, if there are any."""
    history = service_of(request).policy.history()
    older = [entry for entry in history if before is None or entry.version < before]
    page, headers = older[:limit], {}
    if len(older) > limit:
        path = f"{request.scope.get('root_path', '')}/exit-policy/history"
        headers["Link"] = f'<{path}?limit={limit}&before={page[-1].version}>; rel="next"'
    return respond(list[HistoryEntryOut], [_entry(entry) for entry in page], headers=headers)


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


@router.get("/levels", response_model=LevelsOut, responses=described(401), dependencies=[Depends(require_read)])
async def read_levels(request: Request) -> Response:
    """Return what every operating point gives on this traffic: expected, measured, certified or not; cheapest first.

    Those that were fitted to the traffic come after the model's own.
    """
    return respond(LevelsOut, _levels(service_of(request)))


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
        "promise": _promise(state),
    }


def _promise(state: PolicyState) -> dict[str, Any] | None:
    promise = state.in_force.promise
    return {**promise.to_json(), "certified": bool(state.is_certified)} if promise else None


def _levels(service: Service) -> dict[str, Any]:
    samples, standing, measured = service.samples, service.levels.standing(), service.levels.measured()
    gold = service.gold.gold() if service.gold.sentences else None
    catalog = service.policy.catalog
    fit = service.policy.fits.current
    points = [*service.policy.operating_points(), *(fit.points if fit else ())]
    found = [(point, catalog.policy(point.parameters)) for point in points]
    return {
        "sampling": {
            "since": service.levels.started,
            "measured_since": service.levels.since,
            "samples": (done := service.levels.samples),
            "waiting": samples.counts.drawn - done,
            "sentences": samples.counts.offered,
            "uncovered": samples.counts.uncovered,
            "probability": samples.probability,
        }
        if samples
        else None,
        "promise": {
            **standing.certified.goal.to_json(),
            "since": standing.since,
            "samples": standing.samples,
            "alarms": standing.alarms,
        }
        if standing
        else None,
        "feedback": {"sentences": gold.sentences, **_gold(gold.full_depth)} if gold else None,
        "levels": [
            _level(point, measured.get(policy) if samples else None, gold.levels.get(policy) if gold else None)
            for point, policy in found
        ],
    }


def _gold(estimate: GoldEstimate) -> GoldOut:
    low, high = estimate.f1_interval
    f1 = None if estimate.f1 is None else round(100 * estimate.f1, 2)
    return {"f1": f1, "f1_interval": (round(100 * low, 2), round(100 * high, 2))}


def _level(point: OperatingPoint, seen: Measured | None, gold: GoldEstimate | None) -> dict[str, Any]:
    return {
        "parameters": point.parameters,
        "preset": point.preset,
        "expected": point.expected(),
        "measured": _measured(seen.estimate) if seen else None,
        "gold": _gold(gold) if gold else None,
        "certified": seen.is_certified if seen else None,
    }


def _measured(estimate: Estimate) -> dict[str, Any]:
    """Return the figures of an estimate, but the number of samples, which all levels have in common."""
    figures = estimate.to_json()
    del figures["samples"]
    return {name: tuple(value) if isinstance(value, list) else value for name, value in figures.items()}


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


def _name(changed_by: str | None) -> str | None:
    """Return X-Changed-By as its sender wrote it: in UTF-8, or else in Latin-1, as which the framework read it."""
    if changed_by is None:
        return None
    with suppress(UnicodeDecodeError):
        changed_by = changed_by.encode("latin-1").decode()
    if len(changed_by) > MAX_NAME_CHARS:
        raise BadInput(f"X-Changed-By has {len(changed_by)} characters; the limit is {MAX_NAME_CHARS}")
    return changed_by


def _versions(if_match: str | None) -> frozenset[int] | None:
    """Return the versions that an If-Match header names; None for no header or `*`. Raises BadInput."""
    if if_match is None or if_match.strip() == "*":
        return None
    if not re.fullmatch(rf"(?:{_ETAG}(?:\s*,\s*|$))+", if_match.strip(), re.ASCII):
        raise BadInput(f"If-Match is {reprlib.repr(if_match)}; expected ETags that GET /exit-policy gave")
    return frozenset(map(int, re.findall(r"\d+", if_match, re.ASCII)))
