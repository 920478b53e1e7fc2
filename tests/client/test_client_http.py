"""The client's way with a server: what it sends, what it sends again, and what it makes of errors."""

from __future__ import annotations

import json
import threading
from typing import Any

import httpx2 as httpx
import pytest

from service.client.http import NerClient, ServerLost, Serving, Stopped, TextsRefused
from service.errors import BadInput
from tests.client.scripted_ import Script, bad, client_of, result

LOST = httpx.ReadError("connection reset")
UNREACHABLE = httpx.ConnectError("connection refused")


def waits_of(client: NerClient, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that a client makes from now on; they take no time."""
    waits: list[float] = []

    def wait(self: threading.Event, timeout: float | None = None) -> bool:
        waits.append(timeout or 0.0)
        return False

    monkeypatch.setattr(client._stopped, "wait", wait.__get__(client._stopped))
    return waits


def used(script: Script, **options: Any) -> NerClient:
    """A client that has had an answer, so that it waits for its server."""
    client = client_of(script, **options)
    script._answers.insert(0, httpx.Response(200, json=result("")))
    client.ner([""])
    script.requests.clear()
    return client


@pytest.mark.parametrize(("texts", "body"), [(["Rome"], {"text": "Rome"}), (["a", "😀"], {"texts": ["a", "😀"]})])
def test_texts_go_as_on_the_wire_and_results_come_in_order(texts: list[str], body: dict[str, Any]) -> None:
    script = Script()
    with client_of(script) as client:
        assert client.ner(texts) == [result(text) for text in texts]
    (request,) = script.requests
    assert json.loads(request.content) == body
    assert (request.method, str(request.url)) == ("POST", "http://ner.test:8000/ner")
    assert request.headers["Content-Type"] == "application/json"
    assert "Authorization" not in request.headers


@pytest.mark.parametrize("key", ["secret", "clé-钥匙"])
def test_a_key_travels_as_a_bearer_token(key: str) -> None:
    script = Script()
    client_of(script, key).ner(["a"])
    assert (b"Authorization", f"Bearer {key}".encode()) in script.requests[0].headers.raw


def test_a_key_that_cannot_be_sent_is_refused_and_not_shown() -> None:
    with pytest.raises(BadInput, match="NER_API_KEY") as refused:
        NerClient("http://ner.test", "secret\n")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("url", ["", "ner.test", "ftp://ner.test", "http://", "http://x:abc", "//ner.test"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(BadInput, match=r"expected one such as http://HOST:8000"):
        NerClient(url)


def test_an_address_may_have_a_path_and_end_in_a_slash() -> None:
    script = Script()
    NerClient("http://ner.test/prefix/", transport=httpx.MockTransport(script)).ner(["a"])
    assert str(script.requests[0].url) == "http://ner.test/prefix/ner"


def test_overload_is_waited_out_as_long_as_the_server_says(monkeypatch: pytest.MonkeyPatch) -> None:
    client = client_of(Script(bad(429, **{"Retry-After": "7"}), bad(429, **{"Retry-After": "3"})))
    waits = waits_of(client, monkeypatch)
    assert client.ner(["Rome"]) == [result("Rome")]
    assert waits == [7, 3]


def test_a_connection_that_is_lost_is_tried_again_ever_more_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    client = used(Script(LOST, UNREACHABLE, bad(503), bad(502), LOST, LOST, LOST, LOST))
    waits = waits_of(client, monkeypatch)
    assert client.ner(["Rome"]) == [result("Rome")]
    assert waits == [0.25, 0.5, 1, 2, 4, 8, 8, 8]


@pytest.mark.parametrize("value", ["Wed, 21 Oct 2026 07:28:00 GMT", "-5", "soon", ""])
def test_a_retry_after_that_is_no_number_of_seconds_changes_nothing(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_of(Script(bad(429, **{"Retry-After": value})))
    waits = waits_of(client, monkeypatch)
    client.ner(["Rome"])
    assert waits == [0.25]


def test_a_server_that_never_answered_is_not_waited_for() -> None:
    script = Script(UNREACHABLE)
    with pytest.raises(ServerLost, match=r"connection refused; start a server, or name .* --url or NER_URL"):
        client_of(script).ner(["Rome"])
    assert len(script.requests) == 1


@pytest.mark.parametrize(
    ("answer", "said"),
    [(bad(429, "the queue is full"), r"answered 429: the queue is full"), (LOST, "connection reset")],
)
def test_patience_ends(answer: httpx.Response | Exception, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(*[answer] * 9)
    client = used(script, patience_s=0.5)
    waits = waits_of(client, monkeypatch)
    with pytest.raises(ServerLost, match=said):
        client.ner(["Rome"])
    assert waits == [0.25]
    assert len(script.requests) == 2


@pytest.mark.parametrize("status", [400, 413, 422, 500])
def test_what_the_server_does_not_take_is_said_in_its_own_words(status: int) -> None:
    script = Script(bad(status, "text has 7 characters"))
    with pytest.raises(TextsRefused, match=r"^text has 7 characters$"):
        client_of(script).ner(["Rome"])
    assert len(script.requests) == 1


def test_texts_that_together_take_too_long_are_refused_at_once() -> None:
    with pytest.raises(TextsRefused, match="too long"):
        client_of(Script(bad(504, "it took too long"))).ner(["Rome", "Paris"])


def test_a_text_that_takes_too_long_is_tried_again_and_refused_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(*[bad(504, "it took too long")] * 9)
    client = client_of(script, patience_s=0.5)
    waits_of(client, monkeypatch)
    with pytest.raises(TextsRefused, match="too long"):
        client.ner(["Rome"])
    assert len(script.requests) == 2


def test_a_wrong_key_is_told_where_the_key_comes_from() -> None:
    with pytest.raises(ServerLost, match=r"answered 401: this call needs .*; .* NER_API_KEY holds the key"):
        client_of(Script(bad(401, "this call needs the API key"))).ner(["Rome"])


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(404, text="<html>"),
        httpx.Response(307, headers={"Location": "https://ner.test"}),
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json=[]),
        httpx.Response(200, json={"results": []}),
        httpx.Response(200, json={"results": [1, 2]}),
        httpx.Response(200, json={"results": [result("a")]}),
    ],
)
def test_another_server_than_this_service_is_noticed(answer: httpx.Response) -> None:
    with pytest.raises(ServerLost, match=r"http://ner\.test:8000/ner answered"):
        client_of(Script(answer)).ner(["Rome", "Paris"])


def test_who_is_stopped_waits_no_longer() -> None:
    client = client_of(Script(bad(429, **{"Retry-After": "50"})))
    client.stop()
    with pytest.raises(Stopped):
        client.ner(["Rome"])


def test_what_the_server_answers_with_is_read_beside_the_path_of_requests() -> None:
    models = httpx.Response(200, json=[{"name": "a", "version": "2", "labels": ["PER"], "more": 1}])
    script = Script(models, httpx.Response(200, json={"version": 7, "strategy": "vee"}))
    with NerClient("http://ner.test/prefix", "secret", transport=httpx.MockTransport(script)) as client:
        assert client.serving() == Serving("a@2", ("PER",), 7)
    paths = ["/prefix/models", "/prefix/exit-policy"]
    assert [(request.method, request.url.path) for request in script.requests] == [("GET", path) for path in paths]
    assert {request.headers["Authorization"] for request in script.requests} == {"Bearer secret"}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (bad(401), "NER_API_KEY holds the key"),
        (httpx.Response(200, json=[]), "is it this service"),
        (httpx.Response(200, text="<html>"), "is it this service"),
        (UNREACHABLE, "start a server, or name the one there is"),
    ],
)
def test_a_server_that_does_not_say_what_it_answers_with_is_lost(answer: httpx.Response | Exception, said: str) -> None:
    with client_of(Script(answer, httpx.Response(200, json={}))) as client, pytest.raises(ServerLost, match=said):
        client.serving()
