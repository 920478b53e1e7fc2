"""The real huggingface_hub.InferenceClient, sync and async, against a server that listens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from service.api.state import Service
from tests.api.servers_ import ENTITY_TEXT, GatedStepper, listening, tiny_service, use_stepper, wait_until

Build = Callable[..., Service]
API_KEY = "the-api-key"
TEXT = f"😀 e\u0301 北京 {ENTITY_TEXT}"


class Asynchronous:
    """AsyncInferenceClient, called like InferenceClient: each call runs in an event loop of its own."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._arguments, self._options = arguments, options

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            async def run() -> Any:
                async with AsyncInferenceClient(*self._arguments, **self._options) as client:
                    method: Callable[..., Awaitable[Any]] = getattr(client, name)
                    return await method(*arguments, **options)

            return asyncio.run(run())

        return call


Client = type[InferenceClient] | type[Asynchronous]


@pytest.fixture(autouse=True)
def _no_hub_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No proxy, no saved token, and no offline mode: it refuses this machine too."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    huggingface_hub.close_session()
    yield
    huggingface_hub.close_session()


@pytest.fixture(params=[InferenceClient, Asynchronous])
def client_of(request: pytest.FixtureRequest) -> Client:
    """Each of the two clients."""
    client: Client = request.param
    return client


@pytest.fixture(scope="module")
def url(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that needs a key."""
    service = tiny_service(model_folder, tmp_path_factory.mktemp("state"), api_key=API_KEY)
    with listening(service) as url:
        yield url


def test_a_text_is_classified_and_offsets_count_code_points(client_of: Client, url: str) -> None:
    elements = client_of(url, token=API_KEY).token_classification(TEXT)
    assert elements
    for element in elements:
        assert TEXT[element.start : element.end] == element.word
        assert isinstance(element.entity_group, str)
        assert element.entity is None


def test_parameters_are_understood(client_of: Client, url: str) -> None:
    client = client_of(base_url=url, api_key=API_KEY)
    words = client.token_classification(TEXT, aggregation_strategy="none", ignore_labels=["O"], stride=8)
    assert {word.entity[:2] for word in words} == {"B-", "I-"}
    assert all(word.entity[2:] == word.entity_group for word in words)
    label = words[0].entity_group
    assert label not in {e.entity_group for e in client.token_classification(TEXT, ignore_labels=[label])}


def test_a_list_of_texts_comes_back_as_a_list_for_each(client_of: Client, url: str) -> None:
    client = client_of(url, token=API_KEY)
    assert client.token_classification([TEXT, ""]) == [client.token_classification(TEXT), []]


def test_health_and_info_are_where_the_client_looks_for_them(client_of: Client, url: str) -> None:
    client = client_of(url, token=API_KEY, provider="hf-inference")
    assert client.health_check() is True
    assert client.get_endpoint_info()["model"] == "tiny@1"


def test_an_error_shows_our_message(client_of: Client, url: str) -> None:
    with pytest.raises(HfHubHTTPError, match=r"parameters\.stride: .*; given -1") as refused:
        client_of(url, token=API_KEY).token_classification(TEXT, stride=-1)
    assert refused.value.response.status_code == 422


@pytest.mark.parametrize("token", [None, "wrong"])
def test_a_missing_or_wrong_key_is_a_401_that_says_what_is_needed(
    client_of: Client, url: str, token: str | None
) -> None:
    with pytest.raises(HfHubHTTPError, match="needs the API key") as refused:
        client_of(url, token=token).token_classification(TEXT)
    assert refused.value.response.status_code == 401


def test_a_token_that_nobody_asked_for_is_ignored(client_of: Client, build: Build) -> None:
    with listening(build()) as url:
        assert client_of(url, token="hf_of-the-hub").token_classification(TEXT)


def test_overload_is_a_429_with_our_message(client_of: Client, build: Build, gated: GatedStepper) -> None:
    service = build()
    use_stepper(service, gated, queue_texts=1)
    with listening(service) as url, ThreadPoolExecutor() as pool:
        try:
            admitted = pool.submit(client_of(url).token_classification, TEXT)
            wait_until(gated.arrived.is_set)
            with pytest.raises(HfHubHTTPError, match="the queue is full") as refused:
                client_of(url).token_classification(TEXT)
            assert refused.value.response.status_code == 429
        finally:
            gated.gate.set()
        assert admitted.result()
