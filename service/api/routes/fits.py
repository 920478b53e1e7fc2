"""Operating points fitted to the traffic, over HTTP: what they are fitted to, which there are, which are in force."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Depends, Request, Response

from service.api.bodies import BodyRoute
from service.api.errors import described
from service.api.keys import require_admin, require_read
from service.api.respond import respond
from service.api.schemas.fits import FitRequest, FitsOut, InForceRequest
from service.api.state import Service, service_of
from service.errors import BadInput, EngineFailed
from service.exits.policies.learned import ExitRule

router = APIRouter(prefix="/exit-policy", route_class=BodyRoute)
RECORDS = "application/octet-stream"


@router.get(
    "/samples",
    response_class=Response,
    responses={200: {"content": {RECORDS: {}}}, **described(401, 403, 422)},
    dependencies=[Depends(require_admin)],
)
def read_samples(request: Request) -> Response:
    """Return the numbers that are kept of the latest samples, as a safetensors file; nothing of a text is in it."""
    service = service_of(request)
    if service.samples is None or not service.settings.sample_records:
        raise BadInput(
            "no numbers of samples are kept here: NER_SAMPLE_FRACTION or NER_SAMPLE_RECORDS is 0, or the model has no "
            "operating points; start the server with a share to sample"
        )
    return Response(service.recorder.records().to_bytes(), media_type=RECORDS)


@router.get("/fits", response_model=FitsOut, responses=described(401), dependencies=[Depends(require_read)])
async def read_fits(request: Request) -> Response:
    """Return the operating points that were fitted to the traffic, with their rules, and which are in force."""
    return respond(FitsOut, _fits(service_of(request)))


@router.post(
    "/fits",
    status_code=201,
    response_model=FitsOut,
    responses=described(401, 403, 413, 415, 422, 500),
    dependencies=[Depends(require_admin)],
)
async def install_fit(body: FitRequest, request: Request) -> Response:
    """Put operating points that were fitted to the traffic in force, beside the model's own, under a new number."""
    service = _alone(service_of(request))
    try:
        await asyncio.to_thread(service.fit_keeper.install, body.model_dump(), service.config.num_layers)
    except OSError as error:
        raise _unsaved() from error
    return respond(FitsOut, _fits(service), status=201)


@router.patch(
    "/fits",
    response_model=FitsOut,
    responses=described(401, 403, 413, 415, 422, 500),
    dependencies=[Depends(require_admin)],
)
async def change_fit(body: InForceRequest, request: Request) -> Response:
    """Put another fit in force, or none: the way back."""
    service = _alone(service_of(request))
    try:
        await asyncio.to_thread(service.fit_keeper.go_to, body.in_force)
    except OSError as error:
        raise _unsaved() from error
    return respond(FitsOut, _fits(service))


def _alone(service: Service) -> Service:
    """Raise BadInput where replicas share the policy: each has traffic of its own, and fits that others do not know."""
    if service.settings.policy_store or service.settings.policy_store_file:
        raise BadInput(
            "replicas share the exit policy here (NER_POLICY_STORE), and a fit to the traffic of one is unknown to the "
            "others; calibrate a server that has its policy for itself"
        )
    return service


def _unsaved() -> EngineFailed:
    return EngineFailed("the fit could not be saved, so nothing was changed; see the log")


def _fits(service: Service) -> dict[str, Any]:
    fits, rule = service.policy.fits, service.policy.catalog.model.get(ExitRule)
    return {
        "model": service.model_reference,
        "rule": rule.to_json() if rule else None,
        "in_force": fits.in_force,
        "fits": [{**fit.to_json(), "points": [point.to_json() for point in fit.points]} for fit in fits.kept],
    }
