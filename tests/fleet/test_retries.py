"""A request whose replica died has another one, as long as nothing was answered and it may be sent twice."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest
from starlette.types import Message, Receive, Scope, Send

from service.fleet import retries
from service.fleet.retries import ATTEMPTS, MOST_BYTES, Retries, middlewares

BODY = (b'{"text": "Anna ', b'met Ben."}')


class Proxy:
    """Reads a request and answers it; the first `dying` times it ends without an answer, after some of its messages."""

    def __init__(self, dying: int = 0, *, reads: int = 9, answers: Iterable[Message] = ()) -> None:
        self.bodies: list[bytes] = []
        self._dying = dying
        self._reads = reads
        self._before = list(answers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        body, is_whole, read = b"", False, 0
        is_dying = len(self.bodies) < self._dying
        while not is_whole and not (is_dying and read >= self._reads):
            message = await receive()
            body += message.get("body", b"")
            is_whole = not message.get("more_body", False)
            read += 1
        self.bodies.append(body)
        if is_dying:
            for message in self._before:
                await send(message)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "PAUSE_S", 0.0)


def ask(
    proxy: Proxy, method: str = "POST", path: str = "/ner", body: Iterable[bytes] = BODY, ends: Message | None = None
) -> list[Message]:
    """Send a request through the middleware; -> what came back."""
    pieces = list(body)
    messages: list[Message] = [
        {"type": "http.request", "body": piece, "more_body": number < len(pieces) - 1 or ends is not None}
        for number, piece in enumerate(pieces)
    ]
    messages += [ends] if ends else []
    got: list[Message] = []

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        got.append(message)

    scope = {"type": "http", "method": method, "path": path, "root_path": "", "headers": []}
    asyncio.run(Retries(proxy)(scope, receive, send))
    return got


@pytest.mark.parametrize("reads", [0, 1, 9])
@pytest.mark.parametrize("path", ["/ner", "/", "/analyze"])
def test_a_request_for_entities_is_sent_again_whole(path: str, reads: int) -> None:
    proxy = Proxy(dying=2, reads=reads)
    assert [message.get("body") for message in ask(proxy, path=path)] == [None, b"".join(BODY)]
    assert len(proxy.bodies) == 3


def test_a_read_is_sent_again() -> None:
    proxy = Proxy(dying=1)
    assert ask(proxy, "GET", "/exit-policy", [b""])[0]["status"] == 200


@pytest.mark.parametrize(
    ("method", "path"), [("PATCH", "/exit-policy"), ("POST", "/feedback"), ("POST", "/ner/stream")]
)
def test_what_changes_something_or_is_a_stream_is_sent_once(method: str, path: str) -> None:
    proxy = Proxy(dying=1)
    assert ask(proxy, method, path) == [] and len(proxy.bodies) == 1


def test_nothing_is_sent_again_once_an_answer_has_begun() -> None:
    begun: Message = {"type": "http.response.start", "status": 200, "headers": []}
    proxy = Proxy(dying=1, answers=[begun])
    assert ask(proxy) == [begun] and len(proxy.bodies) == 1


def test_nothing_is_sent_again_for_a_client_that_has_left() -> None:
    proxy = Proxy(dying=1)
    assert ask(proxy, ends={"type": "http.disconnect"}) == [] and len(proxy.bodies) == 1


def test_a_body_that_is_too_large_to_be_kept_is_sent_once() -> None:
    proxy = Proxy(dying=1)
    assert ask(proxy, body=[b"x" * MOST_BYTES, b"x"]) == [] and len(proxy.bodies) == 1


def test_it_ends_when_nobody_ever_answers() -> None:
    proxy = Proxy(dying=ATTEMPTS + 1)
    assert ask(proxy) == [] and len(proxy.bodies) == ATTEMPTS


def test_serve_is_given_it_as_a_middleware() -> None:
    assert [middleware.cls for middleware in middlewares()] == [Retries]
