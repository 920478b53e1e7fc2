"""What a server says of itself: the model, the machine, the documentation."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path

import fastapi
import pytest
import torch
from starlette.testclient import TestClient

from service import __version__
from service.api import server
from service.api.app import create_app
from service.api.state import Service
from service.engine.engine import EngineLimits
from service.errors import BadInput
from service.executors.eager import EagerExecutor
from tests.api.servers_ import TINY_LABELS, tiny_service
from tests.exits.strategies_ import WITHOUT_TRAFFIC

Build = Callable[..., Service]
Start = Callable[..., TestClient]


def test_models_describes_the_one_that_is_served(client: TestClient) -> None:
    assert client.get("/models").json() == [
        {
            "name": "tiny",
            "version": "1",
            "labels": TINY_LABELS,
            "nested": True,
            "num_layers": 4,
            "hidden_size": 32,
            "strategies": sorted(WITHOUT_TRAFFIC - {"learned"}),
            "card": "# A tiny random model, for tests\n",
        }
    ]


def test_a_calibrated_model_has_the_learned_strategy_too_and_says_what_its_figures_hold_for(
    calibrated_folder: Path, tmp_path: Path
) -> None:
    with TestClient(create_app(tiny_service(calibrated_folder, tmp_path))) as client:
        assert client.get("/models").json()[0]["strategies"] == sorted(WITHOUT_TRAFFIC)
        calibration = client.get("/info").json()["calibration"]
    assert calibration["data"] == "by hand" and len(calibration["weights_sha256"]) == 64


def test_info_tells_machine_limits_and_versions(client: TestClient) -> None:
    info = client.get("/info").json()
    assert (info["model"], info["device"], info["dtype"], info["threads"]) == ("tiny@1", "cpu", "float32", 1)
    assert info["executor"] == "eager"
    assert info["instructions"] == torch.backends.cpu.get_cpu_capability().lower()
    assert info["given_up"].startswith("int8 kernels, ")
    assert info["limits"] == {
        "max_body_bytes": 2_000_000,
        "max_text_chars": 100_000,
        "max_texts": 1_024,
        "queue_texts": 4_096,
        "queue_tokens": 262_144,
        "queue_bytes": 64_000_000,
        "max_connections": 5_000,
        "client_timeout_s": 75.0,
        "timeout_ms": 10_000,
    }
    assert "calibration" not in info
    versions = {"service": __version__, "torch": torch.__version__, "fastapi": fastapi.__version__}
    assert info["versions"].items() >= versions.items()


def test_info_names_the_executor_that_was_asked_for(start: Start) -> None:
    info = start(executor="eager").get("/info").json()
    assert (info["executor"], info["device"], info["dtype"]) == ("eager", "cpu", "float32")


def test_an_executor_that_cannot_run_the_model_is_refused_with_the_reason(build: Build) -> None:
    with pytest.raises(BadInput, match=r"executor fused cannot run this model: its .*; use executor auto or eager"):
        build(executor="fused")


@pytest.mark.parametrize(("wanted", "expected"), [({}, EagerExecutor.max_step_pieces), ({"max_step_tokens": 7}, 7)])
def test_a_step_is_as_large_as_the_executor_likes_unless_told_otherwise(
    wanted: dict[str, int], expected: int, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[EngineLimits] = []
    monkeypatch.setattr(server, "EngineLimits", lambda *limits: made.append(EngineLimits(*limits)) or made[-1])
    build(executor="eager", **wanted)
    assert [limits.max_step_pieces for limits in made] == [expected]


def test_info_gives_no_secret_away(build: Build) -> None:
    service = build(api_key="an-api-key", admin_key="an-admin-key")
    with TestClient(create_app(service), headers={"Authorization": "Bearer an-api-key"}) as client:
        said = client.get("/info").text + client.get("/models").text + client.get("/openapi.json").text
    assert "an-api-key" not in said
    assert "an-admin-key" not in said


def test_the_docs_load_nothing_from_elsewhere(client: TestClient) -> None:
    for page in ("/docs", "/redoc"):
        html = client.get(page).text
        addresses = re.findall(r"""(?:src|href|url|spec-url)\s*[=:]\s*["']([^"']+)""", html)
        assert len(addresses) >= 3
        assert not re.search("https?://", re.sub("<!--.*?-->", "", html, flags=re.DOTALL))
        for address in addresses:
            assert client.get(address).status_code == 200, address


def test_the_docs_behind_a_proxys_prefix_ask_for_everything_under_it(build: Build) -> None:
    with TestClient(create_app(build()), root_path="/prefix") as client:
        html = client.get("/docs").text
        addresses = re.findall(r"""(?:src|href|url)\s*[=:]\s*["']([^"']+)""", html)
        assert addresses
        assert all(address.startswith("/prefix/") for address in addresses)
        assert client.get("/openapi.json").json()["servers"] == [{"url": "/prefix"}]


def test_the_schema_describes_every_endpoint_and_the_errors(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    assert schema["paths"].keys() >= {
        *("/", "/ner", "/exit-policy", "/exit-policy/history", "/exit-policy/operating-points"),
        *("/models", "/info", "/metrics", "/livez", "/readyz", "/health"),
    }
    described = schema["paths"]["/ner"]["post"]["responses"]
    refused = {"400", "401", "408", "413", "415", "421", "422", "429", "431", "500", "503", "504"}
    assert described.keys() == {"200", *refused}
    for status, response in described.items():
        if status != "200":
            assert response["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/ErrorOut"}


def test_a_models_answer_fits_the_schema_that_is_published(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()["components"]["schemas"]
    result = client.post("/ner", json={"text": "The University of Paris was visited.", "trace": True}).json()
    assert result.keys() == schema["NerResult"]["properties"].keys()
    assert result["timing_ms"].keys() == schema["TimingOut"]["properties"].keys()
    assert result["entities"][0].keys() == schema["EntityOut"]["properties"].keys()


def test_a_model_is_found_by_name_in_the_store(model_folder: Path, tmp_path: Path) -> None:
    for reference in ("tiny", "tiny@1"):
        service = tiny_service(model_folder, tmp_path, model=reference, model_store=model_folder.parent.parent)
        assert service.model_reference == "tiny@1"


def test_only_the_engines_thread_uses_more_than_one_thread(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenMP serves the first thread that asks for a team much better than any later one."""
    asked: list[tuple[str, int]] = []
    monkeypatch.setattr(server, "use_threads", lambda n: asked.append((threading.current_thread().name, n)))
    client = start(threads=3)
    assert asked == [(threading.main_thread().name, 1), ("engine", 3)]
    assert client.get("/info").json()["threads"] == 3
