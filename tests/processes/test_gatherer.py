"""The process that answers for all: it waits for none that is stuck."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import pytest

from service.processes.gatherer import Gatherer
from tests.api.servers_ import wait_until

WELL = {"liveness": ["alive", True], "readiness": ["ready", True], "families": []}


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

    def answer_all(self) -> None:
        """Be well from now on."""
        for line in self._lines:
            self._say({"question": json.loads(line)["question"], **WELL})

    def shut(self) -> None:
        """Hear nothing more."""
        self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Be gone."""
        self._lines.close()
        self._socket.close()

    def _say(self, message: dict[str, object]) -> None:
        self._socket.sendall(json.dumps(message).encode() + b"\n")


def test_metrics_do_not_wait_for_a_process_that_is_stuck_until_it_answers_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.processes.gatherer.ANSWER_S", 0.05)
    gatherer = Gatherer(tmp_path / "gatherer", 1)
    gatherer.listen()

    def seen_as(liveness: tuple[str, bool]) -> bool:
        gatherer.look()
        return gatherer.liveness() == liveness

    process = Process(tmp_path / "gatherer")
    wait_until(lambda: seen_as(("stuck", False)))
    asked = process.question()
    gatherer.render_metrics()
    gatherer.look()  # which asks again, as the metrics did not
    assert process.question() == asked + 1
    well = threading.Thread(target=process.answer_all)
    well.start()
    wait_until(lambda: seen_as(("alive", True)))
    gatherer.close()
    process.shut()
    well.join()
    process.close()
