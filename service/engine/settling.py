"""Tells whoever waits that a request is answered: an event loop once for all of them, threads one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress

from service.engine.sequence import Request


def settle(answered: Iterable[Request]) -> None:
    """Settle the futures of answered requests, from any thread; a future that is cancelled stays so."""
    of_loops: dict[asyncio.AbstractEventLoop, list[Request]] = {}
    for request in answered:
        if isinstance(request.future, asyncio.Future):
            of_loops.setdefault(request.future.get_loop(), []).append(request)
        else:
            _settle(request)
    for loop, requests in of_loops.items():
        with suppress(RuntimeError):  # the loop is closed, and nobody waits any more
            loop.call_soon_threadsafe(_settle_all, requests)


def _settle_all(requests: Iterable[Request]) -> None:
    for request in requests:
        _settle(request)


def _settle(request: Request) -> None:
    if request.future.done():
        return
    if request.error is None:
        request.future.set_result(None)
    else:
        request.future.set_exception(request.error)
        request.future.exception()  # seen: where the client has left, nobody asks, and asyncio would log it as lost
