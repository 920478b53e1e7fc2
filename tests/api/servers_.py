"""Servers for the tests of the HTTP API: in process around a tiny model, with a scripted device, as a process.

No test lives here.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from starlette.testclient import TestClient

from service.api.http_server import Server
from service.api.listening import bind_health
from service.api.server import build_service
from service.api.state import Service
from service.autopilot.pilot import Autopilot
from service.engine.engine import Engine, EngineLimits
from service.settings import Settings
from service.spans.types import Span
from service.stepping.passage import Passage
from service.stepping.stepper import ModelStepper, Stepper
from tests.models_ import eager

PROJECT = Path(__file__).resolve().parents[2]
ADMIN_KEY = "the-admin-key"
AS_ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}
NAMES = "x,testserver"  # by which tests address servers, on bare sockets and through Starlette's client
PATIENCE_S = 120.0  # how long a test waits for what must happen, on however busy a machine
TINY_LABELS = ["LOC", "ORG", "PER"]
ENTITY_TEXT = "The University of Paris was visited."  # the tiny model finds entities here, at its last layer


def tiny_service(folder: Path, state_dir: Path, **settings: Any) -> Service:
    """A service on the CPU around the tiny model saved in `folder`; the admin key is ADMIN_KEY."""
    fixed = {"model": str(folder), "state_dir": state_dir, "device": "cpu", "threads": 1, "admin_key": ADMIN_KEY}
    return build_service(Settings(**{"allowed_hosts": NAMES, **fixed, **settings}))


def use_stepper(service: Service, stepper: Stepper, **limits: Any) -> None:
    """Give a service that has not started an engine around `stepper`."""
    limited = EngineLimits(**limits)
    service.engine = Engine(stepper, policy=service.policy, limits=limited, observer=service.metrics.engine)
    service.autopilot = Autopilot(service.policy, service.traffic, service.engine.load, time.monotonic)


def samples(client: TestClient) -> list[Sample]:
    """Every sample of GET /metrics."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return [sample for family in families for sample in family.samples]


def sample(client: TestClient, name: str, **labels: str) -> float:
    """The value of the one sample of a name whose labels include these."""
    found = [one for one in samples(client) if one.name == name and labels.items() <= one.labels.items()]
    if len(found) != 1:
        raise LookupError(f"{len(found)} samples are {name} with {labels}; expected one")
    return float(found[0].value)


def value(service: Service, name: str, **labels: str) -> float:
    """Of the one series of a name and labels, read where it is kept."""
    found = service.metrics.registry.get_sample_value(name, {"model_name": service.model_reference, **labels})
    if found is None:
        raise LookupError(f"there is no {name} with {labels}")
    return found


def wait_until(condition: Callable[[], object]) -> None:
    """Poll until `condition` holds; fails after PATIENCE_S."""
    deadline = time.monotonic() + PATIENCE_S
    pause = threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {PATIENCE_S} s in vain")
        pause.wait(0.005)


@contextmanager
def listening(service: Service) -> Iterator[str]:
    """Run the real server around `service`, on a free port and in a thread of this process; -> its URL."""
    service.settings.port = 0
    server = Server(service, time.monotonic(), bind_health(service.settings))
    thread = threading.Thread(target=server.run, name="server")
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)


class GatedStepper:
    """The tiny model's stepper, whose steps wait for `gate`."""

    def __init__(self) -> None:
        self._inner = ModelStepper(eager())
        self.num_layers = self._inner.num_layers
        self.gate = threading.Event()
        self.arrived = threading.Event()
        self.layers_run: list[int] = []

    def advance(self, passages: Sequence[Passage]) -> None:
        """See Stepper."""
        self.arrived.set()
        if not self.gate.wait(PATIENCE_S):
            raise TimeoutError("nobody opened the gate")
        self.layers_run.append(passages[0].layer + 1)
        self._inner.advance(passages)

    def read_spans(self, passages: Sequence[Passage]) -> list[list[Span]]:
        """See Stepper."""
        return self._inner.read_spans(passages)


class BrokenStepper:
    """A device on which every step fails."""

    num_layers = 4

    def advance(self, passages: Sequence[Passage]) -> None:
        """See Stepper."""
        raise RuntimeError("inner detail 4711")

    def read_spans(self, passages: Sequence[Passage]) -> list[list[Span]]:
        """See Stepper."""
        return []


class ServerProcess:
    """`python -m service serve` in a process of its own; what it says on standard error goes to a file."""

    def __init__(self, folder: Path, project: Path = PROJECT, **environment: str) -> None:
        """folder: of the log; project: whose service is served. environment: NER_* and other variables."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("NER_")}
        self._log = folder / f"server-{time.monotonic_ns()}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "service", "serve"],
                cwd=project,
                env={
                    **inherited,
                    "PYTHONPATH": str(project),
                    "NER_PORT": "0",
                    "NER_DEVICE": "cpu",
                    "NER_ALLOWED_HOSTS": NAMES,
                    **environment,
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def log(self) -> str:
        """Everything said so far."""
        return self._log.read_text(encoding="utf-8")

    def event(self, name: str) -> dict[str, Any] | None:
        """The first log line of an event."""
        for line in self.log.splitlines(keepends=True):
            if line.endswith("\n") and f'"event": "{name}"' in line:
                found: dict[str, Any] = json.loads(line)
                return found
        return None

    def wait_ready(self) -> str:
        """-> the URL that the "ready" line names."""
        wait_until(lambda: self.event("ready") or self.process.poll() is not None)
        ready = self.event("ready")
        if ready is None:
            raise RuntimeError(f"the server ended with {self.process.returncode}: {self.log}")
        return str(ready["url"])

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def wait_end(self) -> int:
        """-> the exit code."""
        return self.process.wait(PATIENCE_S)

    def kill(self) -> None:
        """Make sure that it is gone."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
