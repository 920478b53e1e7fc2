"""The process that answers for all serving processes: whether they are well, and what they measured together."""

from __future__ import annotations

import os
import signal
import socket
import socketserver
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, cast

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric

from service.api.health_server import HealthServer
from service.metrics import REPLACED
from service.processes.families import Family, condensed, that_stay, together
from service.processes.lines import ANSWER_S, Line
from service.settings import Settings

LOOK_S = 0.5  # between two rounds of questions: so old may be what is known of a process


STUCK = ("stuck", False)


class Said(NamedTuple):
    """What a serving process says of itself: its words and verdicts for /livez and /readyz, and its series."""

    liveness: tuple[str, bool]
    readiness: tuple[str, bool]
    families: list[Family]


NOTHING = Said(("alive", True), ("starting", False), [])


@dataclass(slots=True, eq=False)
class _Process:
    """A serving process that is connected.

    said   what it said last
    asked  how often it was asked; an answer says which question it is to, since it may come too late
    gone   set once it does not answer any more
    """

    line: Line
    lock: threading.Lock = field(default_factory=threading.Lock)
    said: Said = NOTHING
    asked: int = 0
    gone: threading.Event = field(default_factory=threading.Event)

    @property
    def is_stuck(self) -> bool:
        return self.said.liveness == STUCK

    def ask(self, again: bool = True) -> None:
        """Ask how it is and what it measured. Raises OSError, ValueError or LookupError if it has ended.

        again: whether to ask one, too, that is stuck, and to wait for it; else what it said last stands
        """
        if self.is_stuck and not again:  # somebody else may be waiting for it
            return
        with self.lock:
            if self.is_stuck and not again:
                return
            self.asked += 1
            self.line.send({"question": self.asked})
            try:
                while (answer := self.line.receive())["question"] != self.asked:
                    pass
                self.said = Said(tuple(answer["liveness"]), tuple(answer["readiness"]), answer["families"])
            except TimeoutError:  # it may be busy, or stopped; what it counted before still counts
                self.said = self.said._replace(liveness=STUCK, readiness=STUCK)


class Gatherer:
    """Listens for serving processes, asks them, and answers for all of them. It has the port for health."""

    def __init__(self, path: Path, processes: int) -> None:
        """path: of its socket, which is free; processes: how many there are to be."""
        self._expected = processes
        self._lock = threading.Lock()  # guards the fields below
        self._processes: list[_Process] = []
        self._ended: list[Family] = []  # the counters of those that ended
        self._joined = 0
        self._server = socketserver.ThreadingUnixStreamServer(str(path), self._handler(), bind_and_activate=True)
        self._server.daemon_threads = True

    def listen(self) -> None:
        """Begin to take serving processes, and those of them that ask for the metrics of all."""
        threading.Thread(target=self._server.serve_forever, name="gatherer", daemon=True).start()

    def close(self) -> None:
        """Take nobody any more."""
        self._server.shutdown()
        self._server.server_close()

    def run(self, settings: Settings, health: Sequence[socket.socket]) -> None:
        """Answer until SIGTERM."""
        self.listen()
        port = HealthServer(self, settings, health) if health else None
        if port is not None:
            port.start()
        ended = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: ended.set())
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        supervisor = os.getppid()
        while not ended.wait(LOOK_S) and os.getppid() == supervisor:
            self.look()
        self.close()

    def liveness(self) -> tuple[str, bool]:
        """See `service.api.health`: well while none is stuck."""
        found = self._said()
        unwell = [said.liveness for said in found if not said.liveness[1]]
        return unwell[0] if unwell else ("alive", True)

    def readiness(self) -> tuple[str, bool]:
        """See `service.api.health`: ready while one is, the others being started or replaced."""
        found = self._said()
        ready = [said.readiness for said in found if said.readiness[1]]
        return next(iter(ready), found[0].readiness if found else ("starting", False))

    def render_metrics(self) -> bytes:
        """Return the metrics of all, in Prometheus' text format: of one that is stuck, what it said last."""
        self.look(again=False)
        return generate_latest(cast("CollectorRegistry", self))

    def collect(self) -> Iterable[Metric]:
        """See prometheus_client's registry."""
        with self._lock:
            snapshots = [self._ended, *(one.said.families for one in self._processes)]
            replaced = max(0, self._joined - self._expected)
        for family in together(snapshots):
            if family.name == REPLACED:
                family.samples = [one._replace(value=replaced) for one in family.samples if one.name.endswith("_total")]
            yield family

    def _said(self) -> list[Said]:
        with self._lock:
            return [one.said for one in self._processes]

    def look(self, again: bool = True) -> None:
        """Ask all how they are; again: those, too, that are stuck."""
        with self._lock:
            processes = list(self._processes)
        for one in processes:
            try:
                one.ask(again)
            except (OSError, ValueError, LookupError):
                self._end(one)

    def _end(self, one: _Process) -> None:
        """Take note that a process does not answer any more; what it counted stays."""
        with self._lock:
            if one not in self._processes:
                return
            self._processes.remove(one)
            self._ended = condensed([self._ended, that_stay(one.said.families)])
        one.gone.set()

    def _handler(self) -> type[socketserver.BaseRequestHandler]:
        gatherer = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                line = Line(self.request, ANSWER_S)
                message = line.receive()
                if message["what"] == "metrics":
                    line.send({"text": gatherer.render_metrics().decode()})
                else:
                    gatherer._join(line).gone.wait()  # then the connection is closed

        return Handler

    def _join(self, line: Line) -> _Process:
        one = _Process(line)
        with self._lock:
            self._processes.append(one)
            self._joined += 1
        return one
