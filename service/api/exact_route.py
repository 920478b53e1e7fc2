"""Routes that refuse query parameters they do not know: a misspelt `dry_run` must not change the policy."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from service.api.keys import check_key
from service.api.state import service_of
from service.errors import BadInput


class ExactRoute(APIRoute):
    """A route that takes the query parameters that its function has, each at most once, and no others."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See APIRoute."""
        handle = super().get_route_handler()
        known = sorted(parameter.alias for parameter in self.dependant.query_params)

        async def handle_exactly(request: Request) -> Response:
            if request.scope["query_string"]:
                check_key(service_of(request).keys, request.scope)  # without a key nothing is said of a request
                _check(list(request.query_params.multi_items()), known)
            try:
                return await handle(request)
            except (RequestValidationError, HTTPException) as error:
                for one in (error, error.__cause__, error.__context__):
                    if one is not None:
                        one.__traceback__ = None  # its frames, the framework's, hold the error, and it the body
                raise

        return handle_exactly


def _check(given: list[tuple[str, str]], known: list[str]) -> None:
    """Raise BadInput for a query parameter that is unknown, or that is given twice."""
    names = [name for name, _ in given]
    if unknown := sorted(set(names) - set(known)):
        expected = f"expected {', '.join(known)}" if known else "this call takes none"
        raise BadInput(f"unknown query parameters: {', '.join(unknown)}; {expected}")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadInput(f"query parameters given more than once: {', '.join(twice)}; give each once")
