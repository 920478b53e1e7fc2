"""The composed containers for the tests: build, start, ask, watch, stop. No test lives here."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]
COMPOSITION = "vee-ner-e2e"  # names containers, network and volumes, apart from those that somebody may be running
PATIENCE_S = 120.0  # how long a test waits for what must happen, on however busy a machine
BUILD_TIMEOUT_S = 1_500.0


def require_engine() -> None:
    """Skip, loudly, where no Docker engine answers; with NER_E2E_REQUIRE_DOCKER=1 that is a failure."""
    try:
        asked = subprocess.run(["docker", "version"], capture_output=True, text=True, timeout=60)
        problem = asked.stderr.strip() if asked.returncode else ""
    except FileNotFoundError as error:
        problem = str(error)
    if not problem:
        return
    if os.environ.get("NER_E2E_REQUIRE_DOCKER") == "1":
        pytest.fail(f"NER_E2E_REQUIRE_DOCKER=1, but no Docker engine answers: {problem}")
    pytest.skip(f"CONTAINERS WERE NOT TESTED: no Docker engine answers: {problem}")


def docker(*arguments: str, timeout_s: float = PATIENCE_S, **environment: str) -> str:
    """Run the docker command; -> what it printed. Raises RuntimeError with what it said if it fails."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("NER_", "LOAD_"))}
    done = subprocess.run(
        ["docker", *arguments],
        cwd=ROOT,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    if done.returncode:
        raise RuntimeError(f"docker {' '.join(arguments)} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def wait_until(condition: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
    """Poll until `condition` holds. An HTTP error counts as not yet."""
    deadline = time.monotonic() + patience_s
    pause = threading.Event()
    while not _holds(condition):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {patience_s} s in vain")
        pause.wait(0.2)


def _holds(condition: Callable[[], object]) -> bool:
    try:
        return bool(condition())
    except httpx.HTTPError:
        return False


class Composition:
    """What docker-compose.yml describes, under a name and on ports of its own."""

    def __init__(self) -> None:
        ports = [_free_port() for _ in range(3)]
        names = ("NER_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT")
        self._environment = {name: str(port) for name, port in zip(names, ports, strict=True)}
        self._environment["LOAD_PEAK_RATE"] = "30"  # whatever the machine, the service keeps up
        self.service = httpx.Client(base_url=f"http://127.0.0.1:{ports[0]}", timeout=PATIENCE_S, trust_env=False)
        self.prometheus = httpx.Client(base_url=f"http://127.0.0.1:{ports[1]}", timeout=PATIENCE_S, trust_env=False)

    def compose(self, *arguments: str, timeout_s: float = PATIENCE_S) -> str:
        """`docker compose`; -> what it printed."""
        named = ("compose", "--project-name", COMPOSITION, "--profile", "load", *arguments)
        return docker(*named, timeout_s=timeout_s, **self._environment)

    def up(self) -> None:
        """Start the service, Prometheus and the traffic, and wait until all are healthy."""
        self.compose("up", "--detach", "--wait", "ner", "prometheus", "load", timeout_s=2 * PATIENCE_S)
        key = self.compose("exec", "-T", "ner", "cat", "/var/lib/ner/admin_key").strip()
        self.service.headers["Authorization"] = f"Bearer {key}"

    def close(self) -> None:
        """Take everything down, volumes included."""
        self.compose("down", "--volumes", "--timeout", "5")
        self.service.close()
        self.prometheus.close()

    def container(self, service: str) -> dict[str, Any]:
        """What `docker inspect` says of a service's container."""
        found: list[dict[str, Any]] = json.loads(docker("inspect", self._identifier(service)))
        return found[0]

    def _identifier(self, service: str) -> str:
        return self.compose("ps", "--all", "--quiet", service).strip()

    def change_policy(self, **change: object) -> dict[str, Any]:
        """PATCH /exit-policy; -> the policy now in force."""
        answer = self.service.patch("/exit-policy", json=change, headers={"X-Changed-By": "e2e"})
        answer.raise_for_status()
        policy: dict[str, Any] = answer.json()
        return policy

    def traffic(self) -> dict[str, int]:
        """The latest count of what came back to the traffic's client, by outcome."""
        line = docker("logs", "--tail", "1", self._identifier("load"))
        counts: dict[str, int] = json.loads(line or "{}")
        return counts

    def values(self, query: str, range_s: float = 0.0) -> list[float]:
        """Every value that a PromQL expression has had within the last `range_s` seconds; 0: has now."""
        now = time.time()
        span = {"query": query, "start": now - range_s, "end": now, "step": 5.0}
        answer = self.prometheus.get("/api/v1/query_range", params=span)
        found = answer.json()
        if found["status"] != "success":
            raise ValueError(f"{query}: {found['error']}")
        return [float(value) for series in found["data"]["result"] for _, value in series["values"]]


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port
