"""What a client sends, what it sends again, and what it makes of errors: the steps of exchanges, without a network."""

from __future__ import annotations

import json
from typing import Any, TypeVar

import httpx2 as httpx
import pytest

from ner_client import NerError, Options, ServerLost, TextsRefused
from ner_client.exchange import Call, Exchange, Exchanges, Pause, Reply
from tests.clients.scripted_ import LIMITS, URL, bad, good, result

LOST = httpx.ReadError("connection reset")
UNREACHABLE = httpx.ConnectError("connection refused")
T = TypeVar("T")


class Driven:
    """Drives exchanges with a server that answers as scripted, and every further call well; waiting takes no time."""

    def __init__(self, *replies: Reply, url: str = URL, key: str = "", patience_s: float = 60.0) -> None:
        self.exchanges = Exchanges(url, key, patience_s)
        self.calls: list[Call] = []
        self.waits: list[float] = []
        self.replies = list(replies)

    def __call__(self, exchange: Exchange[T]) -> T:
        reply: Reply | None = None
        try:
            while True:
                step = exchange.send(reply)
                reply = self._reply(step) if isinstance(step, Call) else None
                if isinstance(step, Pause):
                    self.waits.append(step.seconds)
        except StopIteration as done:
            value: T = done.value
            return value

    def ner(self, *texts: str, **options: Any) -> list[Any]:
        """Ask for texts in one request."""
        return self(self.exchanges.ner(texts, Options(**options)))  # type: ignore[typeddict-item] # any

    def each(self, *texts: str, first: int = 0, return_exceptions: bool = True) -> list[Any]:
        """Ask for texts, and for each alone where that is refused."""
        return self(self.exchanges.each(first, texts, {}, return_exceptions))

    def _reply(self, call: Call) -> Reply:
        self.calls.append(call)
        return self.replies.pop(0) if self.replies else good(httpx.Request("POST", call.url, content=call.body))


def used(*replies: Reply, **options: Any) -> Driven:
    """Of a server that has answered, so that it is waited for."""
    driven = Driven(httpx.Response(200, json=result("")), **options)
    driven.ner("")
    driven.calls.clear()
    driven.replies.extend(replies)
    return driven


@pytest.mark.parametrize(("texts", "body"), [(["Rome"], {"text": "Rome"}), (["a", "😀"], {"texts": ["a", "😀"]})])
def test_texts_go_as_on_the_wire_and_results_come_in_order(texts: list[str], body: dict[str, Any]) -> None:
    driven = Driven()
    assert driven.ner(*texts, labels=("PER",), min_score=None) == [result(text) for text in texts]
    (call,) = driven.calls
    assert json.loads(call.body) == {**body, "labels": ["PER"]}
    assert (call.method, str(call.url)) == ("POST", "http://ner.test:8000/ner")


@pytest.mark.parametrize("key", ["secret", "clé-钥匙"])
def test_a_key_travels_as_a_bearer_token(key: str) -> None:
    assert Exchanges(URL, key, 1.0).headers[b"Authorization"] == f"Bearer {key}".encode()
    assert b"Authorization" not in Exchanges(URL, "", 1.0).headers


def test_a_key_that_cannot_be_sent_is_refused_and_not_shown() -> None:
    with pytest.raises(ValueError, match="NER_API_KEY") as refused:
        Exchanges("http://ner.test", "secret\n", 1.0)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("url", ["", "ner.test", "ftp://ner.test", "http://", "http://x:abc", "//ner.test"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"expected one such as http://127\.0\.0\.1:8000"):
        Exchanges(url, "", 1.0)


@pytest.mark.parametrize(
    ("path", "url"), [("ner", "http://ner.test/prefix/ner"), ("info", "http://ner.test/prefix/info")]
)
def test_an_address_may_have_a_path_and_end_in_a_slash(path: str, url: str) -> None:
    driven = Driven(httpx.Response(200, json=[1]), url="http://ner.test/prefix/")
    driven(driven.exchanges.read(path))
    assert str(driven.calls[0].url) == url


def test_overload_is_waited_out_as_long_as_the_server_says() -> None:
    driven = Driven(bad(429, **{"Retry-After": "7"}), bad(503, **{"Retry-After": "3"}))
    assert driven.ner("Rome") == [result("Rome")]
    assert driven.waits == [7, 3]


def test_what_is_read_is_waited_for_as_well() -> None:
    driven = Driven(bad(503), httpx.Response(200, json={"limits": LIMITS}))
    limits = driven(driven.exchanges.limits())
    assert (limits.texts, limits.chars, limits.num_bytes) == (32, 50_000, 1_000_000)
    assert driven(driven.exchanges.limits()) is limits
    assert (driven.waits, len(driven.calls)) == ([0.25], 2)


def test_a_connection_that_is_lost_is_tried_again_ever_more_rarely() -> None:
    driven = used(LOST, UNREACHABLE, bad(503), bad(502), LOST, LOST, LOST, LOST)
    assert driven.ner("Rome") == [result("Rome")]
    assert driven.waits == [0.25, 0.5, 1, 2, 4, 8, 8, 8]


@pytest.mark.parametrize("value", ["Wed, 21 Oct 2026 07:28:00 GMT", "-5", "soon", ""])
def test_a_retry_after_that_is_no_number_of_seconds_changes_nothing(value: str) -> None:
    driven = Driven(bad(429, **{"Retry-After": value}))
    driven.ner("Rome")
    assert driven.waits == [0.25]


def test_a_server_that_never_answered_is_not_waited_for() -> None:
    driven = Driven(UNREACHABLE)
    with pytest.raises(ServerLost, match=r"connection refused; start a server, or name .* by its url or NER_URL"):
        driven.ner("Rome")
    assert len(driven.calls) == 1


@pytest.mark.parametrize(
    ("reply", "said"), [(bad(429, "the queue is full"), "answered 429: the queue is full"), (LOST, "connection reset")]
)
def test_patience_ends(reply: Reply, said: str) -> None:
    driven = used(*[reply] * 9, patience_s=0.5)
    driven.waits.clear()
    with pytest.raises(ServerLost, match=said):
        driven.ner("Rome")
    assert driven.waits == [0.25]
    assert len(driven.calls) == 2


@pytest.mark.parametrize("status", [400, 413, 422, 500])
def test_what_the_server_does_not_take_is_said_in_its_own_words(status: int) -> None:
    driven = Driven(bad(status, "text has 7 characters", **{"X-Request-Id": "r7"}))
    with pytest.raises(TextsRefused, match=r"^text has 7 characters$") as refused:
        driven.ner("Rome")
    assert (refused.value.status, refused.value.error_type, refused.value.request_id) == (status, "T", "r7")
    assert len(driven.calls) == 1


def test_texts_that_together_take_too_long_are_refused_at_once() -> None:
    with pytest.raises(TextsRefused, match="too long"):
        Driven(bad(504, "it took too long")).ner("Rome", "Paris")


def test_a_text_that_takes_too_long_is_tried_again_and_refused_in_the_end() -> None:
    driven = Driven(*[bad(504, "it took too long")] * 9, patience_s=0.5)
    with pytest.raises(TextsRefused, match="too long"):
        driven.ner("Rome")
    assert len(driven.calls) == 2


def test_whoever_sets_a_time_limit_is_told_when_it_passes() -> None:
    driven = Driven(bad(504, "it took too long"))
    with pytest.raises(TextsRefused, match="too long"):
        driven.ner("Rome", timeout_ms=5)
    assert driven.waits == []


def test_a_wrong_key_is_told_where_the_key_comes_from() -> None:
    with pytest.raises(ServerLost, match=r"answered 401: this call needs .*; .* NER_API_KEY holds the key"):
        Driven(bad(401, "this call needs the API key")).ner("Rome")


@pytest.mark.parametrize(
    "reply",
    [
        httpx.Response(404, text="<html>"),
        httpx.Response(307, headers={"Location": "https://ner.test"}),
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json=[]),
        httpx.Response(200, json=[1]),
        httpx.Response(200, json={"results": []}),
        httpx.Response(200, json={"results": [1, 2]}),
        httpx.Response(200, json={"results": [result("a")]}),
    ],
)
def test_another_server_than_this_service_is_noticed(reply: httpx.Response) -> None:
    with pytest.raises(ServerLost, match=r"http://ner\.test:8000/ner answered"):
        Driven(reply).ner("Rome", "Paris")


@pytest.mark.parametrize("told", [{}, {"limits": None}, {"limits": {"max_texts": 3}}, {"limits": 7}])
def test_a_server_without_limits_is_another_one(told: dict[str, Any]) -> None:
    driven = Driven(httpx.Response(200, json=told))
    with pytest.raises(ServerLost, match="is it this service"):
        driven(driven.exchanges.limits())


def test_texts_that_are_refused_together_are_asked_for_alone() -> None:
    refusal = bad(422, "too strange")
    driven = Driven(refusal, httpx.Response(200, json=result("a")), refusal, httpx.Response(200, json=result("c")))
    first, refused, last = driven.each("a", "b", "c", first=32)
    assert (first, last) == (result("a"), result("c"))
    assert isinstance(refused, TextsRefused) and (str(refused), refused.index) == ("too strange", 33)


def test_the_first_text_that_is_refused_alone_ends_it_where_nothing_else_is_wanted() -> None:
    refusal = bad(422, "too strange")
    driven = Driven(refusal, httpx.Response(200, json=result("a")), refusal)
    with pytest.raises(TextsRefused, match="too strange") as refused:
        driven.each("a", "b", "c", first=32, return_exceptions=False)
    assert refused.value.index == 33
    assert len(driven.calls) == 3


def test_a_server_that_is_lost_is_no_fault_of_a_text() -> None:
    with pytest.raises(NerError, match="401") as lost:
        Driven(bad(401)).each("a", "b")
    assert isinstance(lost.value, ServerLost)
