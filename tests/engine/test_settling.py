"""Whoever waits is told: an event loop once for all that finished in a step, and no matter what became of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from service.engine.sequence import Request
from service.engine.settling import settle
from service.errors import EngineFailed
from tests.engine.scripted_ import ScriptedStepper, make_engine, scripted_request

PATIENCE_S = 60.0


def count_wakes(loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch) -> list[Callable[..., object]]:
    """Of an event loop, from now on: what it is woken for by other threads."""
    wakes: list[Callable[..., object]] = []
    wake = loop.call_soon_threadsafe

    def record(callback: Callable[..., object], *args: Any, **how: Any) -> asyncio.Handle:
        wakes.append(callback)
        return wake(callback, *args, **how)

    monkeypatch.setattr(loop, "call_soon_threadsafe", record)
    return wakes


def waiting(script: int) -> Request:
    """A request that leaves after so many layers, for which the running event loop waits."""
    request = scripted_request(script)
    request.future = asyncio.get_running_loop().create_future()
    return request


def test_a_step_wakes_the_event_loop_once_for_all_that_finished_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        requests = [waiting(2) for _ in range(5)] + [waiting(4) for _ in range(3)]
        engine = make_engine(ScriptedStepper())
        for request in requests:
            engine.submit(request)
        wakes = count_wakes(asyncio.get_running_loop(), monkeypatch)
        engine.start()
        await asyncio.wait_for(asyncio.gather(*(request.future for request in requests)), PATIENCE_S)
        engine.close()
        assert not any(request.unfinished for request in requests) and len(wakes) == 2

    asyncio.run(scenario())


def test_an_error_reaches_the_one_who_waits_for_its_request() -> None:
    async def scenario() -> None:
        failed, done, gone = (waiting(1) for _ in range(3))
        failed.error = EngineFailed("no")
        gone.future.cancel()
        settle([failed, gone, done])
        await asyncio.wait_for(done.future, PATIENCE_S)
        assert failed.future.exception() is failed.error and gone.future.cancelled()

    asyncio.run(scenario())


def test_an_event_loop_that_is_closed_stops_nobody_else() -> None:
    async def scenario() -> Request:
        return waiting(1)

    lost, thread = asyncio.run(scenario()), scripted_request(1)
    settle([lost, thread])
    assert thread.future.done() and not lost.future.done()
