"""What a client sends, what it sends again, and what it makes of errors: the steps of exchanges, without a network."""

from __future__ import annotations

import json
from typing import Any, TypeVar

import httpx2 as httpx
import pytest

from ner_client import NerError, Options, ServerLost, TextsRefused
from ner_client.exchange import Call, Exchange, Exchanges, Pause, Reply
from tests.clients.scripted_ import LIMITS, URL, bad, good, lines_of, result

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

    def ner(self, text: str, **options: Any) -> Any:
        """Ask for a text."""
        return self(self.exchanges.ner(text, Options(**options)))  # type: ignore[typeddict-item] # any

    def each(self, *texts: str, first: int = 0, return_exceptions: bool = True, **options: Any) -> list[Any]:
        """Ask for texts in a stream."""
        return self(self.exchanges.each(first, texts, Options(**options), return_exceptions))  # type: ignore[typeddict-item] # any

    def _reply(self, call: Call) -> Reply:
        self.calls.append(call)
        return self.replies.pop(0) if self.replies else good(httpx.Request("POST", call.url, content=call.body))


def numbered(*lines: dict[str, Any]) -> list[dict[str, Any]]:
    """Lines of a stream."""
    return [{"line": number, **line} for number, line in enumerate(lines, 1)]


def used(*replies: Reply, **options: Any) -> Driven:
    """Of a server that has answered, so that it is waited for."""
    driven = Driven(httpx.Response(200, json=result("")), **options)
    driven.ner("")
    driven.calls.clear()
    driven.replies.extend(replies)
    return driven


def test_a_text_goes_as_on_the_wire() -> None:
    driven = Driven()
    assert driven.ner("Rome", labels=("PER",), min_score=None, priority="bulk") == result("Rome")
    (call,) = driven.calls
    assert json.loads(call.body) == {"text": "Rome", "labels": ["PER"], "priority": "bulk"}
    assert (call.method, str(call.url)) == ("POST", "http://ner.test:8000/ner")


def test_many_texts_go_as_lines_with_their_options_beside_them_and_results_come_in_order() -> None:
    driven = Driven(url="http://ner.test/prefix/")
    options = {"labels": ["PER", "LOC"], "min_score": 0.5, "split": False, "exit_policy": {"preset": "fast"}}
    assert driven.each("a", "😀\n", "", **options, timeout_ms=None, priority="bulk") == [
        result(text) for text in ("a", "😀\n", "")
    ]
    (call,) = driven.calls
    assert [json.loads(line) for line in call.body.splitlines()] == [{"text": "a"}, {"text": "😀\n"}, {"text": ""}]
    assert (call.method, call.url.path) == ("POST", "/prefix/ner/stream")
    assert dict(call.url.params) == {
        "labels": "PER,LOC",
        "min_score": "0.5",
        "split": "false",
        "exit_policy": '{"preset": "fast"}',
    }


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
    assert driven.ner("Rome") == result("Rome")
    assert driven.waits == [7, 3]


def test_what_is_read_is_waited_for_as_well() -> None:
    driven = Driven(bad(503), httpx.Response(200, json={"limits": LIMITS}))
    limits = driven(driven.exchanges.limits())
    assert (limits.texts, limits.chars, limits.num_bytes) == (32, 50_000, 1_000_000)
    assert driven(driven.exchanges.limits()) is limits
    assert (driven.waits, len(driven.calls)) == ([0.25], 2)


def test_a_connection_that_is_lost_is_tried_again_ever_more_rarely() -> None:
    driven = used(LOST, UNREACHABLE, bad(503), bad(502), LOST, LOST, LOST, LOST)
    assert driven.ner("Rome") == result("Rome")
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
        lines_of({"line": 1, "error": "of a stream"}),
    ],
)
def test_another_server_than_this_service_is_noticed(reply: httpx.Response) -> None:
    with pytest.raises(ServerLost, match=r"http://ner\.test:8000/ner answered"):
        Driven(reply).ner("Rome")


@pytest.mark.parametrize(
    "reply",
    [
        httpx.Response(404, text="<html>"),
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json=[]),
        httpx.Response(200, json=[1]),
        lines_of(),
        lines_of({"line": 1, **result("a")}),
        lines_of(*({"line": number, **result("a")} for number in range(3))),
        lines_of({"line": 1, **result("a")}, {"line": 2}),
        lines_of({"line": 1, **result("a")}, 7),
    ],
)
def test_another_server_than_one_that_streams_is_noticed(reply: httpx.Response) -> None:
    with pytest.raises(ServerLost, match=r"http://ner\.test:8000/ner/stream answered"):
        Driven(reply).each("Rome", "Paris")


def test_a_server_without_streams_is_told_of() -> None:
    with pytest.raises(ServerLost, match=r"answered 404: .*; .* POST /ner/stream, which a server of version 0\.5"):
        Driven(bad(404, "there is nothing at this path")).each("Rome")


@pytest.mark.parametrize("told", [{}, {"limits": None}, {"limits": {"max_texts": 3}}, {"limits": 7}])
def test_a_server_without_limits_is_another_one(told: dict[str, Any]) -> None:
    driven = Driven(httpx.Response(200, json=told))
    with pytest.raises(ServerLost, match="is it this service"):
        driven(driven.exchanges.limits())


REFUSED = {"error": "too strange", "error_type": "T", "request_id": "one/2"}


def test_a_text_that_is_refused_has_its_error_for_a_result() -> None:
    first, refused, last = Driven(lines_of(*numbered(result("a"), REFUSED, result("c")))).each("a", "b", "c", first=32)
    assert (first, last) == (result("a"), result("c"))
    assert isinstance(refused, TextsRefused) and (str(refused), refused.index) == ("too strange", 33)
    assert (refused.error_type, refused.request_id) == ("T", "one/2")


def test_the_first_text_that_is_refused_ends_it_where_nothing_else_is_wanted() -> None:
    driven = Driven(lines_of(*numbered(result("a"), REFUSED, {**REFUSED, "error": "another"})))
    with pytest.raises(TextsRefused, match="too strange") as refused:
        driven.each("a", "b", "c", first=32, return_exceptions=False)
    assert refused.value.index == 33


def test_options_that_are_refused_are_nobodys_result() -> None:
    with pytest.raises(TextsRefused, match="labels: TIME unknown") as refused:
        Driven(bad(422, "labels: TIME unknown")).each("a", "b", labels=["TIME"])
    assert refused.value.index is None


def test_what_a_server_leaves_over_when_it_ends_is_asked_for_again() -> None:
    end = {"error": "the service is shutting down", "error_type": "NotReady"}
    driven = Driven(lines_of(*numbered(result("a"), REFUSED), end), lines_of(end))
    results = driven.each("a", "b", "ccc")
    assert [results[0], results[2]] == [result("a"), result("ccc")] and isinstance(results[1], TextsRefused)
    assert [len(call.body.splitlines()) for call in driven.calls] == [3, 1, 1]
    assert driven.waits == [0.25]


def test_a_server_that_only_ends_is_not_waited_for_for_ever() -> None:
    end = lines_of({"error": "the service is shutting down", "error_type": "NotReady"})
    with pytest.raises(ServerLost, match="shutting down"):
        Driven(*[end] * 9, patience_s=0.5).each("a")


def test_a_server_that_is_lost_is_no_fault_of_a_text() -> None:
    with pytest.raises(NerError, match="401") as lost:
        Driven(bad(401)).each("a", "b")
    assert isinstance(lost.value, ServerLost)
