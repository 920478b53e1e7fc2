"""The end of the process under load, asked for or not: what was accepted is answered, what was acknowledged is kept."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2 as httpx
import pytest

from tests.api.servers_ import ADMIN_KEY, AS_ADMIN, PATIENCE_S, PROJECT, ServerProcess, wait_until
from tests.api.sockets_ import address_of
from tests.e2e.load_ import Load
from tests.models_ import save_tiny_model

Start = Callable[..., ServerProcess]
CLIENTS = 32
ENDS = 10
KILLS = 300
DRAIN_S = 1.0


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model."""
    return save_tiny_model(tmp_path_factory.mktemp("store") / "tiny" / "1")


@pytest.fixture
def start(tmp_path: Path, model_folder: Path) -> Iterator[Start]:
    """Start a server on a tiny model, always on the same state."""
    servers: list[ServerProcess] = []

    def start(**environment: str) -> ServerProcess:
        settings = {"NER_MODEL": str(model_folder), "NER_STATE_DIR": str(tmp_path / "state"), "NER_THREADS": "1"}
        settings |= {"NER_ADMIN_KEY": ADMIN_KEY, "NER_DRAIN_S": str(DRAIN_S)}
        servers.append(ServerProcess(tmp_path, **{**settings, **environment}))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


def test_sigterm_under_load_loses_no_request(start: Start) -> None:
    fates: Counter[str] = Counter()
    seconds: list[float] = []
    for _ in range(ENDS):
        server = start()
        load = Load(address_of(server.wait_ready()), CLIENTS)
        try:
            wait_until(lambda load=load: load.fates["200"] >= 10 * CLIENTS)
            terminated = time.monotonic()
            server.terminate()
            assert server.wait_end() == 0, server.log
            seconds.append(round(time.monotonic() - terminated, 2))
        finally:
            load.stop()
        fates += load.fates
    print(json.dumps({"ends": ENDS, "clients": CLIENTS, "fates": dict(fates), "seconds_to_end": seconds}))
    assert fates.keys() == {"200", "refused"}


def test_readiness_ends_with_sigterm_and_liveness_with_the_process(start: Start) -> None:
    server = start()
    load = Load(address_of(server.wait_ready()), CLIENTS)
    try:
        with httpx.Client(base_url=server.wait_ready(), timeout=PATIENCE_S, trust_env=False) as client:
            wait_until(lambda: load.fates["200"] >= CLIENTS)
            assert client.get("/readyz").status_code == 200
            server.terminate()
            wait_until(lambda: server.event("draining"))
            assert (client.get("/readyz").status_code, client.get("/livez").status_code) == (503, 200)
        assert server.wait_end() == 0
    finally:
        load.stop()


def test_sigterm_at_any_moment_of_the_start_ends_the_process_soon(start: Start) -> None:
    generator, codes = random.Random(0), Counter[int]()
    ready_s = _seconds_to_ready(start)
    for _ in range(ENDS):
        server = start(NER_DRAIN_S="0")
        time.sleep(generator.uniform(0, 1.2 * ready_s))
        server.terminate()
        codes[server.wait_end()] += 1
        assert "traceback" not in server.log and "Traceback" not in server.log
    print(json.dumps({"seconds_to_ready": round(ready_s, 2), "exit_codes": dict(codes)}))
    assert codes.keys() <= {0, -signal.SIGTERM}


def _seconds_to_ready(start: Start) -> float:
    started, server = time.monotonic(), start(NER_DRAIN_S="0")
    server.wait_ready()
    server.kill()
    return time.monotonic() - started


def test_sigkill_under_load_loses_no_acknowledged_policy_and_the_next_start_is_well(start: Start) -> None:
    generator, acknowledged, seen = random.Random(0), 1, Counter[str]()
    for _ in range(ENDS):
        server = start()
        load = Load(address_of(server.wait_ready()), CLIENTS)
        changes = Changes(server.wait_ready())
        try:
            assert changes.first_seen in (acknowledged, acknowledged + 1)
            wait_until(lambda load=load: load.fates["200"] >= CLIENTS)
            time.sleep(generator.uniform(0, 0.5))
            server.process.kill()
            assert server.wait_end() == -signal.SIGKILL
        finally:
            acknowledged = changes.stop()
            load.stop()
        seen += load.fates
    print(json.dumps({"kills": ENDS, "acknowledged_version": acknowledged, "fates": dict(seen)}))
    assert acknowledged > ENDS


class Changes:
    """Changes the policy without a pause, until the server is gone."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, headers=AS_ADMIN, timeout=PATIENCE_S, trust_env=False)
        self.first_seen = self._acknowledged = int(self._client.get("/exit-policy").json()["version"])
        self._thread = threading.Thread(target=self._change)
        self._thread.start()

    def stop(self) -> int:
        """-> the last version that was acknowledged."""
        self._thread.join(PATIENCE_S)
        self._client.close()
        return self._acknowledged

    def _change(self) -> None:
        try:
            while True:
                answer = self._client.patch("/exit-policy", json={"strategy": "budgeted", "layer": 2})
                self._acknowledged = int(answer.raise_for_status().json()["version"])
        except httpx.TransportError:
            return


def test_of_hundreds_of_kills_none_loses_an_acknowledged_change(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.policy.killed_", str(tmp_path), str(KILLS), "1"]
    run = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=600)
    print(run.stdout)
    assert run.returncode == 0, run.stderr
