"""Reads JSON bodies. A large one is parsed beside the event loop, which everybody waits for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import Request, Response

from service.api.exact_route import ExactRoute

LARGE_BYTES = 65_536  # of a body that takes about a millisecond
_PARSER = ThreadPoolExecutor(1, "parsing large bodies")  # one at a time: each has the interpreter to itself meanwhile


class BodyRoute(ExactRoute):
    """A route that takes JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See APIRoute."""
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            return await handle(_JsonRequest(request.scope, request.receive))

        return handler


class _JsonRequest(Request):
    async def json(self) -> Any:
        """Return the body as plain values."""
        body = await self.body()
        if len(body) <= LARGE_BYTES:
            return json.loads(body)
        return await asyncio.get_running_loop().run_in_executor(_PARSER, json.loads, body)
