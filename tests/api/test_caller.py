"""Whoever waits for an answer waits until it is there, the deadline has passed, or the client has left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any

import pytest

from service.api.caller import Caller, ClientLeft, Departure
from service.errors import TimedOut

PATIENCE_S = 60.0


def run(scenario: Coroutine[Any, Any, None]) -> None:
    """Run a scenario in an event loop of its own."""
    asyncio.run(asyncio.wait_for(scenario, PATIENCE_S))


def soon() -> float:
    """A deadline that passes in a moment."""
    return time.monotonic() + 0.01


def late() -> float:
    """A deadline that no test reaches."""
    return time.monotonic() + 10 * PATIENCE_S


def test_work_of_the_loop_and_of_a_thread_is_waited_for_alike() -> None:
    async def scenario() -> None:
        with Caller(Departure(), late()) as caller:
            of_loop, of_thread = caller.loop.create_future(), Future[str]()
            caller.loop.call_soon(of_loop.set_result, "loop")
            caller.loop.call_soon(of_thread.set_result, "thread")
            assert await caller.wait_for(of_loop) == "loop"
            assert await caller.wait_for(of_thread) == "thread"

    run(scenario())


def test_a_deadline_ends_the_wait_and_cancels_the_work() -> None:
    async def scenario() -> None:
        with Caller(Departure(), soon()) as caller:
            work = Future[str]()
            with pytest.raises(TimedOut, match="ask for more time"):
                await caller.wait_for(work)
            await asyncio.sleep(0)
            assert work.cancelled()

    run(scenario())


def test_a_client_that_leaves_ends_the_wait_and_cancels_the_work() -> None:
    async def scenario() -> None:
        client = Departure()
        with Caller(client, late()) as caller:
            work = caller.loop.create_future()
            caller.loop.call_soon(client.happen)
            with pytest.raises(ClientLeft):
                await caller.wait_for(work)
            assert work.cancelled()

    run(scenario())


def test_nobody_waits_for_work_that_is_begun_after_the_client_has_left() -> None:
    async def scenario() -> None:
        client = Departure()
        client.happen()
        with Caller(client, late()) as caller:
            work = caller.loop.create_future()
            with pytest.raises(ClientLeft):
                await caller.wait_for(work)
            assert work.cancelled()

    run(scenario())


def test_what_failed_fails_with_its_own_error() -> None:
    async def scenario() -> None:
        with Caller(Departure(), late()) as caller:
            work = caller.loop.create_future()
            caller.loop.call_soon(work.set_exception, KeyError("no"))
            with pytest.raises(KeyError):
                await caller.wait_for(work)

    run(scenario())


def test_a_task_that_is_cancelled_is_no_client_that_left() -> None:
    async def scenario() -> None:
        async def wait() -> None:
            with Caller(Departure(), late()) as caller:
                await caller.wait_for(caller.loop.create_future())

        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(scenario())


def test_after_its_answer_neither_deadline_nor_departure_is_told() -> None:
    async def scenario() -> None:
        client = Departure()
        with Caller(client, soon()) as caller:
            pass
        client.happen()
        await asyncio.sleep(0.05)
        work = caller.loop.create_future()
        caller.loop.call_soon(work.set_result, 1)
        assert await caller.wait_for(work) == 1

    run(scenario())
