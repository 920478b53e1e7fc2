"""Client and AsyncClient: alike in all they do, and in step with a server that listens."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from ner_client import AsyncClient, Client, Result, ServerLost, TextsRefused, exchange
from service.settings import Settings
from tests.api.servers_ import ENTITY_TEXT, PATIENCE_S, listening, tiny_service
from tests.clients.scripted_ import (
    LIMITS,
    URL,
    Handler,
    Script,
    bad,
    client_of,
    good,
    refusing,
    result,
    texts_of,
    with_limits,
)

TEXTS = [f"text {number} of Zürich 😀" for number in range(100)]


class Asynchronous:
    """AsyncClient, called like Client: each call runs in an event loop of its own."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._inner = AsyncClient(*arguments, **options)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *arguments, **options: asyncio.run(getattr(self._inner, name)(*arguments, **options))

    def ner_many(self, texts: Iterable[str], **options: Any) -> list[Any]:
        """All results at once."""

        async def collect() -> list[Any]:
            return [found async for found in self._inner.ner_many(texts, **options)]

        return asyncio.run(collect())


both = pytest.mark.parametrize("kind", [Client, Asynchronous])


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "_FIRST_PAUSE_S", 0.001)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("NER_URL", "NER_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def made(kind: Any, handler: Handler, **limits: int) -> Any:
    """A client of either kind whose server is `handler`, with these limits."""
    return kind(URL, "secret", transport=httpx.MockTransport(with_limits(handler, **limits)))


@both
def test_what_is_refused_for_now_is_sent_again_with_all_that_it_had(kind: Any) -> None:
    script = Script(bad(429), bad(503), httpx.Response(200, json=result("Rome")), httpx.ReadError("lost"))
    client = made(kind, script)
    assert client.ner("Rome", labels=["PER"], split=False) == result("Rome")
    assert client.ner("Rome") == result("Rome")
    assert len(script.requests) == 5
    assert [json.loads(request.content) for request in script.requests[:3]] == [
        {"text": "Rome", "labels": ["PER"], "split": False}
    ] * 3
    assert {request.headers["Authorization"] for request in script.requests} == {"Bearer secret"}


@both
def test_many_texts_go_together_and_their_results_come_in_order(kind: Any) -> None:
    sent: list[list[str]] = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(texts_of(request))
        return good(request)

    assert list(made(kind, handler).ner_many(iter(TEXTS))) == [result(text) for text in TEXTS]
    assert sorted(map(len, sent)) == [4, 32, 32, 32]


@both
@pytest.mark.parametrize(
    ("limits", "lengths"),
    [
        ({"max_texts": 2}, [[4, 6], [11, 1], [0]]),
        ({"queue_texts": 3}, [[4, 6, 11], [1, 0]]),
        ({"queue_tokens": 20}, [[4, 6], [11], [1, 0]]),
        ({"max_body_bytes": 40}, [[4, 6], [11, 1], [0]]),
        ({"queue_bytes": 12}, [[4], [6], [11], [1], [0]]),
    ],
)
def test_a_request_keeps_to_every_limit_of_the_server(
    kind: Any, limits: dict[str, int], lengths: list[list[int]]
) -> None:
    sent: list[list[int]] = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(list(map(len, texts_of(request))))
        return good(request)

    list(made(kind, handler, **limits).ner_many(["a" * 4, "b" * 6, "c" * 11, "d", ""], concurrency=1))
    assert sent == lengths


def test_the_limits_are_those_that_the_service_has() -> None:
    assert LIMITS.keys() <= Settings.model_fields.keys()


@both
@pytest.mark.parametrize("texts", [[], ["a"]])
def test_none_or_one_of_many_texts_is_answered_too(kind: Any, texts: list[str]) -> None:
    assert list(made(kind, good).ner_many(texts)) == [result(text) for text in texts]


@both
def test_a_text_that_is_refused_has_its_error_for_a_result_where_that_is_wanted(kind: Any) -> None:
    handler = refusing(TEXTS[40])
    results = list(made(kind, handler).ner_many(TEXTS, return_exceptions=True))
    assert [index for index, found in enumerate(results) if isinstance(found, TextsRefused)] == [40]
    assert results[40].index == 40
    with pytest.raises(TextsRefused, match="too strange") as refused:
        list(made(kind, handler).ner_many(TEXTS))
    assert refused.value.index == 40


def test_the_first_request_may_be_answered_last() -> None:
    others = threading.Semaphore(0)

    def handler(request: httpx.Request) -> httpx.Response:
        if TEXTS[0] in texts_of(request):
            assert all(others.acquire(timeout=PATIENCE_S) for _ in range(3))
        else:
            others.release()
        return good(request)

    with client_of(handler) as client:
        assert list(client.ner_many(TEXTS)) == [result(text) for text in TEXTS]


def test_as_many_tasks_as_wanted_are_under_way_at_a_time_and_never_more() -> None:
    barrier, underway, most = asyncio.Barrier(4), 0, 0

    async def handler(request: httpx.Request) -> httpx.Response:
        nonlocal underway, most
        if request.url.path == "/info":
            return httpx.Response(200, json={"limits": {**LIMITS, "max_texts": 1}})
        underway += 1
        most = max(most, underway)
        if not texts_of(request)[0].startswith("alone"):
            await barrier.wait()
        underway -= 1
        return good(request)

    async def run() -> list[Any]:
        async with AsyncClient(URL, transport=httpx.MockTransport(handler)) as client:
            texts = [*TEXTS[:4], *(f"alone {number}" for number in range(9))]
            return [found async for found in client.ner_many(texts, concurrency=4)]

    assert len(asyncio.run(asyncio.wait_for(run(), PATIENCE_S))) == 13
    assert most == 4


def test_texts_are_read_as_they_are_needed() -> None:
    read: list[int] = []

    def texts() -> Iterator[str]:
        for number in range(10_000):
            read.append(number)
            yield str(number)

    with client_of(good) as client:
        results = client.ner_many(texts())
        next(results)
        results.close()
    assert len(read) <= 6 * 32


def test_who_has_enough_of_the_results_waits_for_no_retry() -> None:
    refused = threading.Event()

    def handler(request: httpx.Request) -> httpx.Response:
        if texts_of(request) == ["first"]:
            assert refused.wait(PATIENCE_S)
            return good(request)
        refused.set()
        return bad(429, **{"Retry-After": "50"})

    with client_of(handler, max_texts=1) as client:
        results = client.ner_many(["first", "second"])
        assert next(results) == result("first")
        results.close()
        with pytest.raises(StopIteration):
            next(results)


def test_a_task_that_is_cancelled_leaves_none_behind() -> None:
    async def run() -> int:
        arrived = asyncio.Event()

        async def handler(request: httpx.Request) -> httpx.Response:
            if request.url.path == "/info":
                return httpx.Response(200, json={"limits": LIMITS})
            arrived.set()
            await asyncio.Event().wait()
            raise AssertionError("nobody sets it")

        async with AsyncClient(URL, transport=httpx.MockTransport(handler)) as client:

            async def collect() -> list[Any]:
                return [found async for found in client.ner_many(TEXTS)]

            task = asyncio.create_task(collect())
            await arrived.wait()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return len(asyncio.all_tasks()) - 1

    assert asyncio.run(run()) == 0


# against a server that listens

API_KEY = "the-api-key"


@pytest.fixture(scope="module")
def url(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that needs a key, and takes few texts at once."""
    settings = {"api_key": API_KEY, "max_texts": 3, "max_text_chars": 1_000}
    with listening(tiny_service(model_folder, tmp_path_factory.mktemp("state"), **settings)) as url:
        yield url


def spans_of(result: Result) -> set[tuple[int, int, str]]:
    """Without scores, whose last digits depend on what runs beside."""
    return {(entity["start"], entity["end"], entity["label"]) for entity in result["entities"]}


def test_both_find_what_the_server_finds(url: str) -> None:
    texts = [f"{ENTITY_TEXT} {'Anna ' * number}" for number in range(10)]

    async def found() -> list[Any]:
        async with AsyncClient(url, API_KEY) as client:
            assert (await client.ner(texts[0]))["model"] == "tiny@1"
            return [spans_of(result) async for result in client.ner_many(texts)]

    with Client(url, API_KEY) as client:
        alone = [spans_of(client.ner(text)) for text in texts]
        assert [spans_of(result) for result in client.ner_many(texts)] == alone
        assert alone[0] and asyncio.run(found()) == alone


def test_address_and_key_may_come_from_the_environment(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NER_URL", url)
    with pytest.raises(ServerLost, match="NER_API_KEY holds the key") as lost, Client() as client:
        client.ner("Rome")
    assert lost.value.status == 401
    monkeypatch.setenv("NER_API_KEY", API_KEY)
    with Client() as client:
        assert client.ner("Rome")["num_layers"] == 4


def test_what_the_server_answers_with_is_told(url: str) -> None:
    with Client(url, API_KEY) as client:
        (model,) = client.models()
        assert (model["name"], model["labels"], model["nested"]) == ("tiny", ["LOC", "ORG", "PER"], model["nested"])
        assert client.exit_policy()["version"] == 1
        assert client.info()["limits"]["max_texts"] == 3


def test_a_text_that_is_too_long_costs_no_other_its_result(url: str) -> None:
    with Client(url, API_KEY) as client:
        results = list(client.ner_many(["Rome", "x" * 1_001, "Paris"], return_exceptions=True))
        assert [isinstance(found, TextsRefused) for found in results] == [False, True, False]
        assert "text has 1001 characters" in str(results[1])


def test_options_are_those_of_the_server(url: str) -> None:
    with Client(url, API_KEY) as client:
        assert client.ner(ENTITY_TEXT, min_score=1.0, split=False, timeout_ms=9_000)["entities"] == []
        assert client.ner(ENTITY_TEXT, labels=[], trace=True)["sequences"][0]["trace"]
        assert client.ner(ENTITY_TEXT, exit_policy={"strategy": "budgeted", "layer": 1})["exit_layer"] == 1
        with pytest.raises(TextsRefused, match="labels: TIME unknown"):
            client.ner(ENTITY_TEXT, labels=["TIME"])
