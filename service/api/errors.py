"""Maps errors to HTTP: the one error body, and the status of each kind of error."""

from __future__ import annotations

import logging
import reprlib
import sys
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Scope

from service.api.caller import ClientLeft
from service.api.hosts import HostRefused
from service.api.keys import KeyMissing, KeyTooWeak, KeyWrong
from service.api.schemas.errors import ErrorOut
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
from service.policy.store import PolicyStoreDown

log = logging.getLogger(__name__)


class EncodingRefused(ServiceError):
    """The body is packed in a way that the service does not read."""


_STATUS: Sequence[tuple[type[ServiceError], int]] = (  # first match wins, so subclasses come first
    (TooLarge, 413),
    (BadInput, 422),
    (KeyMissing, 401),
    (KeyWrong, 401),
    (KeyTooWeak, 403),
    (PolicyConflict, 412),
    (EncodingRefused, 415),
    (HostRefused, 421),
    (Overloaded, 429),
    (NotReady, 503),
    (PolicyStoreDown, 503),
    (TimedOut, 504),
    (ClientLeft, 499),  # no client reads it, but the count of answers needs it
    (EngineFailed, 500),
)
_HEADERS = {
    401: {"WWW-Authenticate": "Bearer"},
    415: {"Accept-Encoding": "identity"},
}
_METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
_MAX_MESSAGE_CHARS = 1_000
_MAX_PROBLEMS = 5  # of one request, in its message
_FRAMEWORK = {  # type and message of errors that the framework raises
    400: ("NotJSON", "the body is not JSON"),
    404: ("NotFound", "there is nothing at this path; GET /docs lists what there is"),
    405: ("MethodNotAllowed", "this path does not take this method"),
}


def error_body(message: str, error_type: str, request_id: str) -> dict[str, str]:
    """Return the body of an error; half of a surrogate pair is shown as its escape.

    A long message is cut in the middle: what was given stands first, what to do about it last.
    """
    if len(message) > _MAX_MESSAGE_CHARS:
        half = _MAX_MESSAGE_CHARS // 2
        message = f"{message[:half]} [...] {message[-half:]}"
    message = message.encode("utf-8", "backslashreplace").decode("utf-8")
    return {"error": message, "error_type": error_type, "request_id": request_id}


def endpoint_of(scope: Scope) -> str:
    """Return the path of the request's route, or "other" if none matched, so that labels and logs have few values.

    "/" stands for POST /, which takes Hugging Face's format; the page at GET / is called "console".
    """
    path: str = getattr(scope.get("route"), "path", "other")
    return "console" if path == "/" and scope["method"] in ("GET", "HEAD") else path


def described(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the description, for OpenAPI, of the errors with which a route can answer."""
    return {status: {"model": ErrorOut} for status in statuses}


def add_error_handlers(app: FastAPI) -> None:
    """Answer every expected error with the one error body; any other is a bug of ours, which the middleware answers."""
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)


def _respond(
    scope: Scope, status: int, message: str, error_type: str, headers: dict[str, str] | None = None
) -> JSONResponse:
    body = error_body(message, error_type, scope["state"]["request_id"])
    return JSONResponse(body, status, headers={**_HEADERS.get(status, {}), **(headers or {})})


def status_of(error: Exception) -> int:
    """Return the HTTP status of an error; 500 for one that is none of ours."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def error_response(scope: Scope, error: Exception) -> JSONResponse:
    """Return the answer to an HTTP request that was refused on purpose or failed in the engine; log what is amiss."""
    status = status_of(error)
    told = {
        "request_id": scope["state"]["request_id"],
        "endpoint": endpoint_of(scope),
        "status": status,
        "error_type": type(error).__name__,
    }
    if status in (401, 403):
        log.warning("key refused", extra={"data": {**told, "client": _address_of_client(scope)}})
    elif status >= 500:  # of a 500 the engine logged what happened; this line says to whom
        level = logging.ERROR if status == 500 else logging.WARNING
        log.log(level, "request failed", extra={"data": {**told, "error": str(error)}})
    headers = {"Retry-After": f"{error.retry_after_s:.0f}"} if isinstance(error, Overloaded) else None
    return _respond(scope, status, str(error), type(error).__name__, headers)


def _address_of_client(scope: Scope) -> str | None:
    """Return where a request comes from. What a client behind a proxy writes into X-Forwarded-For may be anything."""
    client = scope.get("client")
    try:
        return str(ip_address(client[0])).partition("%")[0] if client else None  # a zone may be anything, too
    except ValueError:
        return None


async def _service_error(request: Request, error: Exception) -> JSONResponse:
    return error_response(request.scope, error)


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, RequestValidationError):
        raise TypeError("this handler is registered for RequestValidationError alone")
    problems = error.errors()
    if any(problem["type"] == "json_invalid" for problem in problems):
        reason = problems[0].get("ctx", {}).get("error", problems[0]["msg"])
        return _respond(request.scope, 400, f"the body is not JSON: {reason}", "NotJSON")
    return _respond(request.scope, 422, described_problems(problems), "BadInput")


def described_problems(problems: Sequence[Any]) -> str:
    """Return what pydantic found wrong, for people; of many problems the first."""
    told = [_describe(problem) for problem in problems[:_MAX_PROBLEMS]]
    if len(problems) > _MAX_PROBLEMS:
        told.append(f"and {len(problems) - _MAX_PROBLEMS} more")
    return "; ".join(told)


def _describe(problem: dict[str, Any]) -> str:
    place = ".".join(str(part) for part in problem["loc"] if part not in ("body", "query"))
    message = problem["msg"].removeprefix("Value error, ")
    if not place:
        if isinstance(problem.get("input"), str | bytes) and problem["type"] in ("model_attributes_type", "dict_type"):
            return "the body was not taken as JSON; send an object, with the header 'Content-Type: application/json'"
        return f"body: {message}"
    return f"{place}: {message}; given {reprlib.repr(problem.get('input'))}"


async def _http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise TypeError("this handler is registered for HTTPException alone")
    if isinstance(error.__cause__, ServiceError):  # raised while the body was read, which the framework takes for a 400
        return error_response(request.scope, error.__cause__)
    if request.method == "OPTIONS" and (error.status_code == 405 or _is_about_the_server(request)):
        return Response(status_code=204, headers={"Allow": _allowed_methods(request)})
    error_type, message = _FRAMEWORK.get(error.status_code, (type(error).__name__, str(error.detail)))
    if error.status_code == 400:
        message += f": {_why_not_read(error.__cause__)}"
    headers = {"Allow": _allowed_methods(request)} if error.status_code == 405 else dict(error.headers or {})
    return _respond(request.scope, error.status_code, message, error_type, headers)


def _why_not_read(cause: BaseException | None) -> str:
    """Return why a body could not be read as JSON, by what its reader raised; what to do stands last."""
    if isinstance(cause, UnicodeError):
        return "it is no UTF-8; encode it so"
    if isinstance(cause, RecursionError):
        return "it is nested too deeply; send what the document at GET /docs shows"
    if isinstance(cause, ValueError) and "integer string conversion" in str(cause):
        return f"it has a number of more than {sys.get_int_max_str_digits()} digits; send one that is shorter"
    return "it cannot be read; send what the document at GET /docs shows"


def _is_about_the_server(request: Request) -> bool:
    """Return whether the request is `OPTIONS *`, which asks of no path in particular."""
    return bool(request.scope["path"] == request.scope.get("root_path", "") + "*")


def _allowed_methods(request: Request) -> str:
    """Return the methods of every route of the request's path; the framework names only the first route's."""
    if _is_about_the_server(request):
        return ", ".join(_METHODS)
    scopes = {method: {**request.scope, "method": method} for method in _METHODS}
    routes = request.app.router.routes
    found = {m for m in _METHODS if any(route.matches(scopes[m])[0] is Match.FULL for route in routes)}
    found |= {"OPTIONS", *(["HEAD"] if "GET" in found else [])}
    return ", ".join(sorted(found))
