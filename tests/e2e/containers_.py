"""The composed containers for the tests: build, start, ask, watch, stop. No test lives here."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
from typing import Any

import httpx2 as httpx
import pytest

from tests.api.servers_ import PATIENCE_S, PROJECT
from tests.e2e.panels_ import query

COMPOSITION = "vee-ner-e2e"  # names containers, network and volumes, apart from those that somebody may be running
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
        cwd=PROJECT,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    if done.returncode:
        raise RuntimeError(f"docker {' '.join(arguments)} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def is_ready(address: str) -> bool:
    """Whether a service answers at host:port, and says so. Cheap, since it is asked often."""
    connection = http.client.HTTPConnection(address, timeout=PATIENCE_S)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class Composition:
    """What docker-compose.yml describes, under a name and on ports of its own."""

    def __init__(self) -> None:
        ports = [_free_port() for _ in range(3)]
        names = ("NER_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT")
        self._environment = {name: str(port) for name, port in zip(names, ports, strict=True)}
        self._environment["LOAD_PEAK_RATE"] = "30"  # whatever the machine, the service keeps up
        self._environment["NER_SHADOW_FRACTION"] = "1"  # so that there are some to be seen soon
        self.address, prometheus, _ = (f"127.0.0.1:{port}" for port in ports)
        self.prometheus_url = f"http://{prometheus}"
        self.service = httpx.Client(base_url=f"http://{self.address}", timeout=PATIENCE_S, trust_env=False)

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
        counts: dict[str, int] = json.loads(docker("logs", "--tail", "1", self._identifier("load")))
        return counts

    def value(self, expression: str) -> float | None:
        """What a PromQL expression about the one service is now; None before there is anything."""
        return next(iter(query(self.prometheus_url, expression).values()), None)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port
