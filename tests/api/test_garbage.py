"""Nothing of a request is left in a cycle: seeking those stops every thread, and health checks with them."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from typing import get_args

import pytest

from service.api.state import Service
from service.engine.sequence import Priority
from tests.api.servers_ import GatedStepper, listening, use_stepper, wait_until
from tests.api.sockets_ import RawClient, ask, head, post
from tests.api.test_overload import fill, is_slow

Build = Callable[..., Service]
OF_REQUESTS = {
    *("Connection", "TCPTransport", "RequestResponseCycle", "Exchange", "Caller", "OpenWork", "Overloaded", "TimedOut"),
    *("ClientLeft", "Request", "Sequence", "EncodedText", "SequenceInput", "Span", "Reply"),
}
FULL_DEPTH = {"exit_policy": {"strategy": "full_depth"}}


def post_to(path: str, **body: object) -> bytes:
    return post(json.dumps(body).encode()).replace(b" /ner ", b" %s " % path.encode(), 1)


@pytest.fixture
def left() -> Iterator[Callable[[], list[str]]]:
    """Returns what of requests was left in cycles since it was called before."""
    gc.collect()
    gc.disable()

    def found() -> list[str]:
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        gc.set_debug(0)
        names = [type(one).__name__ for one in gc.garbage]
        gc.garbage.clear()
        return [name for name in names if name in OF_REQUESTS]

    yield found
    gc.enable()
    gc.collect()


REQUESTS = {
    "answered": (post_to("/ner", text="Anna met Ben."), 200),
    "a list": (post_to("/ner", texts=["Anna", "Ben"]), 200),
    "in the other form": (post_to("/", inputs="Anna"), 200),
    "traced": (post_to("/ner", text="Anna", trace=True), 200),
    "not valid": (post_to("/ner", text=1), 422),
    "no JSON": (post(b'{"text": "Anna'), 400),
    "no JSON, in the framework's way": (post(b'{"text": "Anna', ["Content-Type: application/any+json"]), 400),
    "without a key": (post(b"{}").replace(b"POST /ner ", b"PATCH /exit-policy "), 401),
    "too large": (post_to("/ner", text="x" * 100_001), 413),
    "of no route": (head("GET", "/nowhere"), 404),
    "a read": (head("GET", "/exit-policy"), 200),
}


@pytest.mark.parametrize("what", REQUESTS)
def test_an_answered_request_leaves_nothing(build: Build, left: Callable[[], list[str]], what: str) -> None:
    request, status = REQUESTS[what]
    with listening(build()) as url:
        assert ask(url, request).status == status  # whatever is made once is made
        left()
        for _ in range(3):
            assert ask(url, request).status == status
        assert left() == []


def test_a_request_that_is_refused_by_its_head_leaves_nothing(build: Build, left: Callable[[], list[str]]) -> None:
    service = build()
    with listening(service) as url:
        assert ask(url, REQUESTS["answered"][0]).status == 200
        is_slow(fill(service.engine.forecast))
        left()
        assert ask(url, REQUESTS["answered"][0]).status == 429
        assert left() == []


@pytest.fixture
def held(build: Build, left: Callable[[], list[str]], gated: GatedStepper) -> Iterator[tuple[Service, str]]:
    """A service whose steps wait for the gate, and its URL; at the end the gate opens, and nothing may be left."""
    service = build()
    use_stepper(service, gated)
    with listening(service) as url:
        left()
        yield service, url
        gated.gate.set()
        forecasts = [service.engine.forecast_of(priority) for priority in get_args(Priority)]
        wait_until(lambda: not any(forecast.has_open for forecast in forecasts) and not service.streams)
        wait_until(lambda: service.engine.step_age_s() == 0.0)
        assert left() == []


def test_a_request_that_timed_out_or_whose_client_left_leaves_nothing(held: tuple[Service, str]) -> None:
    service, url = held
    assert ask(url, post_to("/ner", text="Anna", timeout_ms=50, **FULL_DEPTH)).status == 504
    with RawClient(url) as client:
        client.send(post_to("/ner", text="Ben", **FULL_DEPTH))
        wait_until(lambda: service.engine.forecast.has_open)
    wait_until(lambda: not service.engine.forecast.has_open)


def test_a_client_that_leaves_amid_several_requests_leaves_nothing(held: tuple[Service, str]) -> None:
    service, url = held
    with RawClient(url) as client:
        client.send(post_to("/ner", text="Anna", **FULL_DEPTH) * 5)
        wait_until(lambda: service.engine.forecast.has_open)


def test_a_client_that_leaves_amid_a_stream_leaves_nothing(held: tuple[Service, str]) -> None:
    service, url = held
    stream = post(b'{"text": "Anna"}\n' * 8 + b"the rest")[:-8]
    with RawClient(url) as client:
        client.send(stream.replace(b"POST /ner ", b"POST /ner/stream ").replace(b"/json", b"/x-ndjson"))
        wait_until(lambda: service.engine.forecast_of("bulk").has_open)
