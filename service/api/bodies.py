"""Reads JSON bodies. A large one is parsed beside the event loop, which everybody waits for, one at a time.

Python parses JSON with the interpreter to itself. Strings take no time to speak of, but each list or object is one more
for the garbage collector to look at: 400,000 empty lists in 2 MB took .2 to .5 s, in which nobody was answered.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import Request, Response

from service.api.exact_route import ExactRoute
from service.errors import BadInput

LARGE_BYTES = 65_536  # of a body that takes about a millisecond
MOST_PARTS = 20_000  # lists and objects of a large body; our largest requests have some thousand
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
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
        return await asyncio.get_running_loop().run_in_executor(_PARSER, _parse, body)


def _parse(body: bytes) -> Any:
    """Return a body as plain values. Raises BadInput for one of too many parts."""
    if _num_parts(body) > MOST_PARTS and (num_parts := _num_parts(_STRING.sub(b"", body))) > MOST_PARTS:
        raise BadInput(f"the body has {num_parts} lists and objects; expected at most {MOST_PARTS}")
    return json.loads(body)


def _num_parts(body: bytes) -> int:
    return body.count(b"[") + body.count(b"{")
