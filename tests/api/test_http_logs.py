"""What is logged of requests: changes, refused keys, answers of 5xx, a line each; how little a client can do."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.logs import JsonFormatter
from tests.api.servers_ import AS_ADMIN, GatedStepper, listening, tiny_service
from tests.api.sockets_ import ask, head

Start = Callable[..., TestClient]
API_KEY = "the-api-key"
ID = {"X-Request-Id": "find-me"}


class Lines(logging.Handler):
    """What is logged, as it is written."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonFormatter())
        self.said: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(json.loads(self.format(record)))

    def of(self, event: str) -> list[dict[str, Any]]:
        """Those of one event, without time, logger and client."""
        apart = ("time", "logger", "client", "event")
        return [
            {name: value for name, value in line.items() if name not in apart}
            for line in self.said
            if line["event"] == event
        ]


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[Lines]:
    caplog.set_level(logging.INFO, "service")
    lines = Lines()
    logging.getLogger().addHandler(lines)
    yield lines
    logging.getLogger().removeHandler(lines)


def test_a_change_of_the_policy_is_one_line_with_the_id_of_its_request(start: Start, lines: Lines) -> None:
    client = start()
    client.patch("/exit-policy", json={"strategy": "budgeted", "layer": 2}, headers=AS_ADMIN | ID)
    client.patch("/exit-policy?dry_run=true", json={"layer": 3}, headers=AS_ADMIN | ID)
    policy = {"strategy": "budgeted", "layer": 2}
    assert lines.of("policy changed") == [
        {"level": "info", "request_id": "find-me", "version": 2, "by": "api", "policy": policy}
    ]


def test_a_refused_key_is_one_line_without_the_key(start: Start, lines: Lines) -> None:
    client = start(api_key=API_KEY)
    client.post("/ner", json={"text": "a"}, headers={"Authorization": "Bearer Zanzibarbara", **ID})
    client.patch("/exit-policy", json={"layer": 3}, headers={"Authorization": f"Bearer {API_KEY}", **ID})
    one = {"level": "warning", "request_id": "find-me"}
    assert lines.of("key refused") == [
        {**one, "endpoint": "/ner", "status": 401, "error_type": "KeyWrong"},
        {**one, "endpoint": "/exit-policy", "status": 403, "error_type": "KeyTooWeak"},
    ]
    assert "Zanzibarbara" not in str(lines.said) and API_KEY not in str(lines.said)


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [("Zanzibarbara", None), ("::1%Zanzibarbara", "::1"), ("a" * 10_000, None), ("203.0.113.7", "203.0.113.7")],
)
def test_of_whom_a_proxy_speaks_for_only_an_address_is_logged(
    model_folder: Path, tmp_path: Path, lines: Lines, forwarded: str, client: str | None
) -> None:
    with listening(tiny_service(model_folder, tmp_path / "state", api_key=API_KEY)) as url:
        assert ask(url, head("POST", "/ner", [f"X-Forwarded-For: {forwarded}"])).status == 401
    (line,) = (line for line in lines.said if line["event"] == "key refused")
    assert line["client"] == client
    assert "Zanzibarbara" not in str(lines.said)


def test_an_answer_that_came_too_late_is_one_line(start_gated: Start, gated: GatedStepper, lines: Lines) -> None:
    start_gated().post("/ner", json={"text": "Zanzibarbara", "timeout_ms": 1}, headers=ID)
    (line,) = lines.of("request failed")
    assert (line["status"], line["error_type"], line["level"], line["request_id"]) == (
        504,
        "TimedOut",
        "warning",
        "find-me",
    )
    assert "Zanzibarbara" not in str(lines.said)


@pytest.mark.parametrize("access_log", [False, True])
def test_a_line_for_every_request_is_logged_only_where_the_operator_wants_it(
    start: Start, lines: Lines, access_log: bool
) -> None:
    client = start(access_log=access_log)
    client.post("/ner?a=Zanzibarbara", json={"text": "Zanzibarbara"}, headers=ID)
    client.get("/Zanzibarbara", headers=ID)
    expected = [("POST", "/ner"), ("GET", "other")] if access_log else []
    assert [(line["method"], line["endpoint"]) for line in lines.of("request")] == expected
    assert all(line["request_id"] == "find-me" and line["ms"] >= 0 for line in lines.of("request"))
    assert "Zanzibarbara" not in str(lines.said)


@pytest.mark.parametrize("expect", ["", "Expect: 100-continue"])
@pytest.mark.parametrize("broken", [b"zz\r\n", b"5\r\nabc\xff\xff\xff\r\n", b"-1\r\n"])
def test_a_body_in_broken_chunks_writes_nothing_to_the_log(
    model_folder: Path, tmp_path: Path, lines: Lines, expect: str, broken: bytes
) -> None:
    headers = ["Content-Type: application/json", "Transfer-Encoding: chunked", *filter(None, [expect])]
    with listening(tiny_service(model_folder, tmp_path / "state")) as url:
        for pieces in ([head("POST", "/ner", headers) + broken], [head("POST", "/ner", headers), broken]):
            assert ask(url, *pieces).status in (100, 400)
    assert [line for line in lines.said if line["level"] != "info"] == []
