"""The end of a serving process: it tells the gatherer how it is and what it measured, and asks it for the whole."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from service.processes.lines import ANSWER_S, Line

log = logging.getLogger(__name__)

METRICS_S = 3 * ANSWER_S  # for those of all; one process may not answer, which shows after ANSWER_S
LOOK_S = 0.5  # between two looks at whether the supervisor lives and the gatherer can be reached


class Link:
    """Answers the gatherer from a thread of its own, from `start` to `close`; ends the process with its supervisor."""

    def __init__(self, path: Path) -> None:
        """path: of the gatherer's socket."""
        self._path = path
        self._supervisor = os.getppid()
        self._stop = threading.Event()
        self._line: Line | None = None
        self._thread: threading.Thread | None = None

    def start(self, describe: Callable[[], dict[str, Any]]) -> None:
        """Begin to answer; describe: returns what the gatherer asks for, see `Gatherer`."""
        self._thread = threading.Thread(target=self._run, args=(describe,), name="link", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering. The gatherer has what it was told last."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(LOOK_S * 4)

    def metrics(self) -> bytes:
        """Return the metrics of all processes in Prometheus' text format. Raises OSError."""
        line = Line.to(self._path, METRICS_S)
        try:
            text: str = line.ask({"what": "metrics"})["text"]
        finally:
            line.close()
        return text.encode()

    def _run(self, describe: Callable[[], dict[str, Any]]) -> None:
        while not self._stop.is_set():
            if os.getppid() != self._supervisor:
                log.error("the supervisor has ended, and this process ends with it")
                os.kill(os.getpid(), signal.SIGTERM)
                return
            try:
                if self._line is None:
                    self._line = Line.to(self._path, LOOK_S)
                    self._line.send({"what": "process", "pid": os.getpid()})
                question = self._line.receive()["question"]
                self._line.send({"question": question, **describe()})
            except TimeoutError:
                continue  # nobody asked
            except (OSError, ValueError, LookupError):
                self._drop()
                self._stop.wait(LOOK_S)
        self._drop()

    def _drop(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None
