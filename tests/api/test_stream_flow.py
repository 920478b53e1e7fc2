"""A stream of lines on a connection: answers while it comes, no more read than is worked on, whose turn, its end."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from service.api import streams
from service.api.caller import ClientLeft, Departure
from service.api.exchange import Exchange
from service.api.line_stream import MOST_LINES, LineStream
from service.api.routes.stream import ask
from service.api.state import Service
from service.api.streams import Streams
from service.engine.engine import EngineLimits
from tests.api.servers_ import PATIENCE_S, GatedStepper, listening, tiny_service, use_stepper, value, wait_until
from tests.api.sockets_ import RawClient, head
from tests.api.sockets_ import ask as ask_raw
from tests.engine.scripted_ import ScriptedStepper, make_engine, scripted_request

Build = Callable[..., Service]
TIMEOUT_S = 0.5
CHUNKED = ["Transfer-Encoding: chunked"]


class StreamClient(RawClient):
    """A client that sends lines one by one, and reads answers when it likes."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.send(head("POST", "/ner/stream", CHUNKED))

    def send_line(self, line: bytes) -> None:
        self.send(b"%x\r\n%b\r\n" % (len(line), line))

    def send_text(self, text: str, **fields: Any) -> None:
        self.send_line(json.dumps({"text": text, **fields}).encode() + b"\n")

    def end(self) -> None:
        self.send(b"0\r\n\r\n")

    def read_line(self) -> Any:
        """The next answer; None at the end."""
        chunk = self.read_chunk()
        return json.loads(chunk) if chunk else None


@pytest.fixture(scope="module")
def url(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server."""
    with listening(tiny_service(model_folder, tmp_path_factory.mktemp("state"))) as url:
        yield url


@pytest.fixture(scope="module")
def strict(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, str]]:
    """A server that waits for a client for TIMEOUT_S only."""
    service = tiny_service(model_folder, tmp_path_factory.mktemp("state"), client_timeout_s=TIMEOUT_S)
    with listening(service) as url:
        yield service, url


@contextmanager
def gated_server(build: Build, gated: GatedStepper, **settings: Any) -> Iterator[tuple[Service, str]]:
    """A server whose steps wait for the gate, which opens before it closes."""
    service = build(**settings)
    use_stepper(service, gated)
    with listening(service) as url:
        try:
            yield service, url
        finally:
            gated.gate.set()


def test_lines_are_answered_while_the_body_comes_and_the_connection_is_kept(url: str) -> None:
    with StreamClient(url) as client:
        client.send_line(b'{"text": "An')
        assert client.read_head()[0] == 200
        client.send_line(b'na"}\n{"text": ')
        assert client.read_line()["line"] == 1
        client.send_line(b'"Ben"}')
        client.end()
        assert client.read_line()["line"] == 2 and client.read_line() is None
        client.send(head("GET", "/livez"))
        assert client.read_answer().status == 200


def test_whoever_asks_before_sending_is_told_to_go_on(url: str) -> None:
    with RawClient(url) as client:
        client.send(head("POST", "/ner/stream", ["Content-Length: 13", "Expect: 100-continue"]))
        assert client.read_answer().status == 100
        client.send(b'{"text": "a"}')
        assert client.read_head()[0] == 200 and json.loads(client.read_chunk())["line"] == 1


def test_no_more_lines_are_under_way_than_may_be(build: Build, gated: GatedStepper) -> None:
    with gated_server(build, gated) as (service, url), StreamClient(url) as client:
        for number in range(2 * MOST_LINES):
            client.send_text(f"Ben {number}")
        client.end()
        wait_until(lambda: service.engine.bulk_requests == MOST_LINES)
        assert ask_raw(url, head("GET", "/readyz")).status == 200
        assert service.engine.bulk_requests == MOST_LINES and value(service, "ner_requests_running") == 0
        gated.gate.set()
        client.read_head()
        assert [client.read_line()["line"] for _ in range(2 * MOST_LINES)] == [*range(1, 2 * MOST_LINES + 1)]


def test_a_stream_that_was_read_to_its_end_is_not_worked_on_once_its_client_has_left(
    build: Build, gated: GatedStepper
) -> None:
    with gated_server(build, gated) as (service, url):
        with StreamClient(url) as client:
            for number in range(2 * MOST_LINES):
                client.send_text(f"Ben {number}")
            client.end()
            wait_until(lambda: service.engine.bulk_requests == MOST_LINES)
        wait_until(lambda: value(service, "ner_requests_client_left_total") == 1)
        wait_until(lambda: value(service, "ner_streams") == 0)
        gated.gate.set()
        wait_until(lambda: service.engine.bulk_requests == 0)
        assert value(service, "ner_stream_lines_total", outcome="result") == 0


def test_a_stream_whose_body_breaks_after_its_answer_began_ends_at_once(url: str) -> None:
    with StreamClient(url) as client:
        client.send_text("Anna")
        client.read_head()
        assert client.read_line()["line"] == 1
        client.send(b"zz\r\n")
        assert client.is_ended()


def test_whoever_takes_no_answers_is_read_no_further_and_is_cut_off(strict: tuple[Service, str]) -> None:
    service, url = strict
    before = value(service, "ner_connections_refused_total", reason="slow")
    answered = value(service, "ner_stream_lines_total", outcome="result")
    with StreamClient(url) as client:
        for _ in range(1_000):  # more than the system keeps for a connection
            client.send_text("", id="x" * 30_000)
        wait_until(lambda: value(service, "ner_connections_refused_total", reason="slow") == before + 1)
    assert 0 < value(service, "ner_stream_lines_total", outcome="result") - answered < 1_000
    wait_until(lambda: len(service.streams) == 0 and service.engine.bulk_requests == 0)


def test_a_stream_that_goes_on_is_not_cut_off_and_one_that_stands_is(strict: tuple[Service, str]) -> None:
    pause = threading.Event()
    with StreamClient(strict[1]) as client:
        client.send_text("Anna")
        client.read_head()
        for number in range(1, 7):
            assert client.read_line()["line"] == number
            pause.wait(TIMEOUT_S / 4)
            client.send_text("Anna")
        assert client.read_line()["line"] == 7
        client.send_line(b'{"text": "half a line')
        assert client.is_ended()


def test_the_time_that_the_service_takes_is_not_the_clients(build: Build, gated: GatedStepper) -> None:
    with gated_server(build, gated, client_timeout_s=TIMEOUT_S) as (_, url), StreamClient(url) as client:
        client.send_text("Anna")
        wait_until(gated.arrived.is_set)
        assert ask_raw(url, b"").status == 408  # and so more than TIMEOUT_S has passed
        gated.gate.set()
        assert client.read_head()[0] == 200 and client.read_line()["line"] == 1


def test_lines_of_a_client_that_left_are_dropped(build: Build, gated: GatedStepper) -> None:
    with gated_server(build, gated) as (service, url):
        with StreamClient(url) as client:
            client.send_text("Anna")
            client.send_text("Ben")
            wait_until(lambda: service.engine.bulk_requests == 2)
        wait_until(lambda: len(service.streams) == 0)
        assert service.engine.bulk_requests == 0
        assert value(service, "ner_requests_client_left_total") == 1


# its end, without a network


class Body:
    """In place of an Exchange: its pieces come when they are put."""

    request_id, length = "one", 0

    def __init__(self) -> None:
        self.put: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        self.sent: list[dict[str, Any]] = []
        self.scope = {"state": {"departure": Departure()}}

    async def pieces(self) -> AsyncIterator[bytes]:
        while (piece := await self.put.get()) is not None:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    def works_on_stream(self, is_at_work: bool) -> None:
        self.is_at_work = is_at_work

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    @property
    def answers(self) -> list[Any]:
        return [json.loads(message["body"]) for message in self.sent[1:] if message["body"]]


def streamed(service: Service, *pieces: bytes | Exception | None, then: Callable[[], None] = lambda: None) -> Body:
    """Run a stream of pieces; once all are taken, do `then`."""

    async def run() -> Body:
        body = Body()
        stream = LineStream(service, cast("Exchange", body), ask(service, {}))
        for piece in pieces:
            body.put.put_nowait(piece)
        running = asyncio.create_task(stream.run(body.send))
        while not body.put.empty():
            await asyncio.sleep(0)
        then()
        await running
        return body

    service.engine.start()
    try:
        return asyncio.run(run())
    finally:
        service.engine.close()


def test_a_stream_that_the_server_ends_answers_what_is_under_way_and_says_so(build: Build) -> None:
    service = build()
    body = streamed(service, b'{"text": "Anna"}\n{"text": "B', b"en", then=service.streams.end)
    first, last = body.answers
    assert first["line"] == 1 and "error" not in first
    assert (last["error_type"], last["request_id"], "line" in last) == ("NotReady", "one", False)
    assert body.sent[-1].get("more_body", False) is False and len(service.streams) == 0


def test_a_stream_that_was_read_to_its_end_is_not_ended(build: Build) -> None:
    service = build()
    body = streamed(service, b'{"text": "Anna"}\n', None, then=service.streams.end)
    assert [answer["line"] for answer in body.answers] == [1]


@pytest.mark.parametrize("pieces", [(b'{"text": "Anna"}\n',), (b'{"text": "An',), ()])
def test_a_stream_whose_client_left_ends_without_another_word(build: Build, pieces: tuple[bytes, ...]) -> None:
    service = build()
    body = streamed(service, *pieces, ClientLeft("gone"))
    assert all(message.get("more_body", True) for message in body.sent)
    assert value(service, "ner_requests_client_left_total") == 1


def test_a_fault_while_lines_are_read_is_not_taken_for_their_end(build: Build) -> None:
    with pytest.raises(RuntimeError, match="4711"):
        streamed(build(), b'{"text": "Anna"}\n', RuntimeError("4711"))


# turns


def test_lines_give_way_to_interactive_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "GIVE_WAY_S", PATIENCE_S)

    async def run() -> list[bool]:
        shared, engine = Streams(1), make_engine(ScriptedStepper())
        with engine.forecast.enter(1, 1e9):
            waiting = asyncio.create_task(shared.take_turn(engine))
            await asyncio.sleep(3 * streams.LOOK_S)
            seen = [waiting.done()]
        await waiting
        return [*seen, waiting.done()]

    assert asyncio.run(run()) == [False, True]


def test_lines_give_way_for_a_while_alone() -> None:
    async def run() -> float:
        shared, engine, loop = Streams(1), make_engine(ScriptedStepper()), asyncio.get_running_loop()
        with engine.forecast.enter(1, 1e9):
            started = loop.time()
            await shared.take_turn(engine)
            return loop.time() - started

    assert asyncio.run(run()) >= 0.9 * streams.GIVE_WAY_S


def test_lines_wait_for_room_and_for_nobody_who_waits_in_bulk() -> None:
    async def run() -> list[bool]:
        shared, engine = Streams(1), make_engine(ScriptedStepper(), limits=EngineLimits(queue_texts=1))
        request = scripted_request(1)
        request.priority = "bulk"
        engine.submit(request)
        waiting = asyncio.create_task(shared.take_turn(engine))
        await asyncio.sleep(2 * streams.ROOM_S)
        seen = [waiting.done()]
        engine.cancel(request)
        with engine.forecast_of("bulk").enter(1, 1e9):
            await waiting
        return [*seen, waiting.done()]

    assert asyncio.run(run()) == [False, True]


def test_one_line_of_all_streams_is_begun_in_a_turn_of_the_event_loop() -> None:
    async def run() -> list[int]:
        shared, engine, turn, begun = Streams(1), make_engine(ScriptedStepper()), 0, []

        async def begin() -> None:
            for _ in range(3):
                await shared.take_turn(engine)
                begun.append(turn)

        tasks = [asyncio.create_task(begin()) for _ in range(4)]
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0)
            turn += 1
        return begun

    begun = asyncio.run(run())
    assert len(set(begun)) == len(begun) == 12
