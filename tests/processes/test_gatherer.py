"""The process that answers for all: it waits for none that is stuck."""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from service.processes.gatherer import Gatherer
from tests.api.servers_ import PATIENCE_S, wait_until

WELL = {"liveness": ["alive", True], "readiness": ["ready", True], "families": []}
UNWELL = {"liveness": ["stuck", False], "readiness": ["stuck", False], "families": []}


class Process:
    """A serving process that answers when the test says so."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile("r")
        self._say({"what": "process"})

    def question(self) -> int:
        """The next one that it was asked, by its number."""
        asked: int = json.loads(self._lines.readline())["question"]
        return asked

    def answer(self, question: int, what: dict[str, Any]) -> None:
        """Say how it is."""
        self._say({"question": question, **what})

    def end(self) -> None:
        """Be gone."""
        self._lines.close()
        self._socket.close()

    def _say(self, message: dict[str, Any]) -> None:
        self._socket.sendall(json.dumps(message).encode() + b"\n")


def test_metrics_do_not_wait_for_a_process_that_is_stuck_though_somebody_else_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.processes.gatherer.ANSWER_S", PATIENCE_S)
    gatherer = Gatherer(tmp_path / "gatherer", 1)
    gatherer.listen()
    process = Process(tmp_path / "gatherer")
    with ThreadPoolExecutor() as pool:
        first = pool.submit(look_until, gatherer, ("stuck", False))
        process.answer(process.question(), UNWELL)
        first.result()
        second = pool.submit(gatherer.look)
        asked = process.question()
        gatherer.render_metrics()  # which neither asks nor waits
        assert not second.done()
        process.answer(asked, WELL)
        second.result()
    assert gatherer.liveness() == ("alive", True)
    gatherer.close()
    process.end()


def look_until(gatherer: Gatherer, liveness: tuple[str, bool]) -> None:
    """Look until it is said, at first by nobody."""

    def is_said() -> bool:
        gatherer.look()
        return gatherer.liveness() == liveness

    wait_until(is_said)
