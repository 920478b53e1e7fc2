"""Errors to HTTP: one body everywhere, and which status each kind of error is."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from service.api.keys import KeyMissing, KeyTooWeak
from service.errors import (
    BadInput,
    EngineFailed,
    NotReady,
    Overloaded,
    PolicyConflict,
    ServiceError,
    TimedOut,
    TooLarge,
)

log = logging.getLogger(__name__)

_STATUS: Sequence[tuple[type[ServiceError], int]] = (  # first match wins, so subclasses come first
    (TooLarge, 413),
    (BadInput, 422),
    (KeyMissing, 401),
    (KeyTooWeak, 403),
    (PolicyConflict, 412),
    (Overloaded, 429),
    (NotReady, 503),
    (TimedOut, 504),
    (EngineFailed, 500),
)
_HEADERS = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "1"}}


def error_body(message: str, error_type: str, request_id: str) -> dict[str, str]:
    """The one error body."""
    return {"error": message, "error_type": error_type, "request_id": request_id}


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error in the one form."""
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _our_bug)


def _respond(
    request: Request, status: int, message: str, error_type: str, headers: dict[str, str] | None = None
) -> JSONResponse:
    request_id = request.state.request_id
    return JSONResponse(
        error_body(message, error_type, request_id), status, headers={**_HEADERS.get(status, {}), **(headers or {})}
    )


async def _service_error(request: Request, error: Exception) -> JSONResponse:
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    return _respond(request, status, str(error), type(error).__name__)


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, RequestValidationError):
        raise TypeError("this handler is registered for RequestValidationError alone")
    problems = error.errors()
    if any(problem["type"] == "json_invalid" for problem in problems):
        reason = problems[0].get("ctx", {}).get("error", problems[0]["msg"])
        return _respond(request, 400, f"the body is not JSON: {reason}", "NotJSON")
    return _respond(request, 422, "; ".join(_describe(problem) for problem in problems), "BadInput")


def _describe(problem: dict[str, Any]) -> str:
    place = ".".join(str(part) for part in problem["loc"] if part not in ("body", "query"))
    if not place:
        if isinstance(problem.get("input"), str | bytes):
            return "the body was not taken as JSON; send an object, with the header 'Content-Type: application/json'"
        return f"body: {problem['msg']}"
    return f"{place}: {problem['msg']}"


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        raise TypeError("this handler is registered for HTTPException alone")
    known = {
        404: "there is nothing at this path; GET /docs lists what there is",
        405: "this path does not take this method",
    }
    message = known.get(error.status_code, str(error.detail))
    return _respond(request, error.status_code, message, type(error).__name__, dict(error.headers or {}))


async def _our_bug(request: Request, error: Exception) -> JSONResponse:
    log.error("request %s failed", request.state.request_id, exc_info=error)
    return _respond(
        request, 500, "the service failed on this request; the log has the details under its id", "InternalError"
    )
