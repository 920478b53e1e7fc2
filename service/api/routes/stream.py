"""POST /ner/stream: many texts in one request, a line each, answered in order with what interactive requests leave."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.types import Receive, Scope, Send

from service.api.answering import Asked
from service.api.errors import described
from service.api.exact_route import ExactRoute
from service.api.exchange import Exchange
from service.api.keys import require_read
from service.api.line_stream import LineStream
from service.api.routes import ner
from service.api.schemas.ner import NerRequest
from service.api.schemas.stream import LineIn, LineOut
from service.api.state import Service, service_of
from service.errors import NotReady

router = APIRouter(route_class=ExactRoute)

_MEDIA_TYPE = "application/x-ndjson"
_BODY = {
    "required": True,
    "description": "Lines of JSON, of which the schema describes one; as many as you like",
    "content": {_MEDIA_TYPE: {"schema": LineIn.model_json_schema()}},
}
_ANSWERED: dict[str, Any] = {"content": {_MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/LineOut"}}}}


class StreamResponse(Response):
    """An answer that is sent while the request comes. A `media_type` of its own would be that of errors, too."""

    def __init__(self, stream: LineStream | None = None) -> None:
        super().__init__()
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See Response."""
        if self._stream is not None:
            await self._stream.run(send)


@router.post(
    "/ner/stream",
    status_code=200,
    response_class=StreamResponse,
    response_model=LineOut,
    responses={**described(401, 415, 422, 503), 200: _ANSWERED},
    response_description="A line of JSON for every line that is not blank, in order, of which the schema describes one",
    openapi_extra={"requestBody": _BODY},
    dependencies=[Depends(require_read)],
)
async def ner_stream(
    request: Request,
    labels: Annotated[str | None, Query(description="keep only entities of these labels; commas between them")] = None,
    min_score: Annotated[float, Query(ge=0, le=1, description="keep only entities at least this probable")] = 0.0,
    split: Annotated[bool, Query(description="split texts into sentences; false takes each as one")] = True,
    timeout_ms: Annotated[
        int | None, Query(ge=1, description="give a line up after this many milliseconds; else it has no time limit")
    ] = None,
    trace: Annotated[bool, Query(description="say what the exit policy is and what it saw at every layer")] = False,
    exit_policy: Annotated[
        str | None,
        Query(description="for this request only: policy parameters, or a goal, as an object of JSON"),
    ] = None,
) -> Response:
    """Find the named entities of many texts: lines of JSON in, lines of JSON out in the same order.

    The body may be as long as you like, and is read as it is worked on. It is bulk work: it is done with what other
    requests leave. A line that cannot be answered has an `error` in its place. A last line that has an `error` and no
    number says why the stream ended early.
    """
    service = service_of(request)
    if service.is_draining:
        raise NotReady("the service is shutting down; send the lines to another instance")
    options = {
        "labels": None if labels is None else [label.strip() for label in labels.split(",") if label.strip()],
        "min_score": min_score,
        "split": split,
        "timeout_ms": timeout_ms,
        "trace": trace,
        "exit_policy": _read(exit_policy),
        "priority": "bulk",
    }
    exchange: Exchange = request.scope["state"]["exchange"]
    exchange.check_encoding()
    return StreamResponse(LineStream(service, exchange, ask(service, options)))


def _read(exit_policy: str | None) -> Any:
    """Return what is said in JSON; what is none stays as it is, and is refused as what does not fit."""
    try:
        return None if exit_policy is None else json.loads(exit_policy)
    except (ValueError, RecursionError):
        return exit_policy


def ask(service: Service, options: dict[str, Any]) -> Asked:
    """Return what is asked for of every line. Raises RequestValidationError or BadInput for options that cannot be."""
    try:
        asked = ner.ask(service, NerRequest.model_validate({"text": "", **options}))
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error
    service.policy.capture(asked.override)
    return replace(asked, waits=True)
