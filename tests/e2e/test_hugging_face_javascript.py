"""The real @huggingface/inference client, in Node, against a server that listens."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.api.servers_ import ENTITY_TEXT, PATIENCE_S, GatedStepper, listening, tiny_service, use_stepper, wait_until

SCRIPT = Path(__file__).parent / "javascript" / "hugging_face.js"
API_KEY = "the-api-key"
TEXT = f"😀 e\u0301 北京 {ENTITY_TEXT}"


def ask(url: str, *inputs: Any, token: str = API_KEY, **parameters: Any) -> list[dict[str, Any]]:
    """Call the client's tokenClassification with each of `inputs`; -> what became of the calls."""
    calls = [{"token": token, "arguments": {"inputs": one, "parameters": parameters}} for one in inputs]
    run = subprocess.run(
        ["node", str(SCRIPT), url], input=json.dumps(calls), capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert run.returncode == 0, run.stderr
    outcomes: list[dict[str, Any]] = json.loads(run.stdout)
    return outcomes


@pytest.fixture(scope="module")
def url(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that needs a key."""
    service = tiny_service(model_folder, tmp_path_factory.mktemp("state"), api_key=API_KEY)
    with listening(service) as url:
        yield url


@pytest.mark.parametrize("parameters", [{}, {"aggregation_strategy": "average", "ignore_labels": ["O"], "stride": 8}])
def test_the_client_takes_the_answer_and_offsets_count_code_points(url: str, parameters: dict[str, Any]) -> None:
    (outcome,) = ask(url, TEXT, **parameters)
    assert outcome["answer"]
    for item in outcome["answer"]:
        assert list(item) == ["entity_group", "score", "word", "start", "end"]
        assert TEXT[item["start"] : item["end"]] == item["word"]


def test_the_client_takes_words_with_tags(url: str) -> None:
    (outcome,) = ask(url, TEXT, aggregation_strategy="none")
    assert {item["entity"][:2] for item in outcome["answer"]} == {"B-", "I-"}


def test_nothing_found_is_an_answer_too(url: str) -> None:
    assert ask(url, "", []) == [{"answer": []}, {"answer": []}]


def test_an_error_shows_our_message(url: str) -> None:
    (outcome,) = ask(url, TEXT, stride=-1)
    assert (outcome["error"]["name"], outcome["error"]["status"]) == ("ProviderApiError", 422)
    assert "parameters.stride: Input should be greater than or equal to 0; given -1" in outcome["error"]["message"]


@pytest.mark.parametrize("token", ["", "wrong"])
def test_a_missing_or_wrong_key_is_a_401_that_says_what_is_needed(url: str, token: str) -> None:
    (outcome,) = ask(url, TEXT, token=token)
    assert outcome["error"]["status"] == 401
    assert "needs the API key" in outcome["error"]["message"]


def test_a_token_that_nobody_asked_for_is_ignored(model_folder: Path, tmp_path: Path) -> None:
    with listening(tiny_service(model_folder, tmp_path)) as url:
        (outcome,) = ask(url, TEXT, token="hf_of-the-hub")
    assert outcome["answer"]


def test_overload_is_a_429_that_the_client_does_not_answer_by_sending_again(model_folder: Path, tmp_path: Path) -> None:
    service, gated = tiny_service(model_folder, tmp_path), GatedStepper()
    use_stepper(service, gated, queue_texts=1)
    with listening(service) as url, ThreadPoolExecutor() as pool:
        try:
            admitted = pool.submit(ask, url, TEXT)
            wait_until(gated.arrived.is_set)
            (refused,) = ask(url, TEXT)
        finally:
            gated.gate.set()
        assert admitted.result()[0]["answer"]
    assert refused["error"]["status"] == 429
    assert "the queue is full" in refused["error"]["message"]
    labels = {"model_name": "tiny@1", "endpoint": "/", "code": "429"}
    assert service.metrics.registry.get_sample_value("ner_requests_total", labels) == 1
