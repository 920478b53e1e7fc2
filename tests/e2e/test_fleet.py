"""Two servers, one Redis, the composition's HAProxy: what clients see while replicas die, end and come back."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx2 as httpx
import pytest

from tests.api.servers_ import ADMIN_KEY, AS_ADMIN, PATIENCE_S, ServerProcess, wait_until
from tests.e2e.front_ import Front
from tests.e2e.load_ import Load
from tests.models_ import save_tiny_model
from tests.policy.redis_ import RedisServer, free_port, needs_redis

pytestmark = needs_redis

CLIENTS = 8
PAUSE_S = 0.02  # so that a server that starts gets its share of the processors
KILLS = 4  # of either replica in turn
ENDS = 4
ANSWERS_BETWEEN = 20 * CLIENTS


class Replica:
    """A server that may be started again on its ports and its state."""

    def __init__(self, folder: Path, model_folder: Path, redis_url: str) -> None:
        self.ports = (free_port(), free_port())
        self._folder = folder
        folder.mkdir()
        self._settings = {
            "NER_MODEL": str(model_folder),
            "NER_STATE_DIR": str(folder / "state"),
            "NER_PORT": str(self.ports[0]),
            "NER_HEALTH_PORT": str(self.ports[1]),
            "NER_ADMIN_KEY": ADMIN_KEY,
            "NER_DRAIN_S": "2",
            "NER_EXECUTOR": "eager",
            "NER_POLICY_STORE": redis_url,
            "NER_THREADS": "1",
        }
        self.start()

    def start(self) -> None:
        self.server = ServerProcess(self._folder, **self._settings)

    def get(self, path: str) -> httpx.Response:
        """Past HAProxy."""
        return httpx.get(f"http://127.0.0.1:{self.ports[0]}{path}", timeout=PATIENCE_S, trust_env=False)

    def has_answered(self) -> bool:
        """Whether it has answered a request for entities since it started."""
        return 'endpoint="/ner"' in self.get("/metrics").text


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Front, list[Replica]]]:
    """Both replicas ready, and HAProxy in front of them."""
    folder = tmp_path_factory.mktemp("fleet")
    model_folder = save_tiny_model(folder / "store" / "tiny" / "1")
    with ExitStack() as stack:
        redis_server = stack.enter_context(RedisServer(folder / "redis"))
        replicas = []
        for name in ("one", "other"):
            replicas.append(Replica(folder / name, model_folder, redis_server.url))
            stack.callback(lambda replica: replica.server.kill(), replicas[-1])
        for replica in replicas:
            replica.server.wait_ready()
        yield stack.enter_context(Front(folder, *(replica.ports for replica in replicas))), replicas


def test_a_change_through_the_front_is_in_force_at_every_replica(fleet: tuple[Front, list[Replica]]) -> None:
    front, replicas = fleet
    change = {"strategy": "budgeted", "layer": 2}
    version = front.client.patch("/exit-policy", json=change, headers=AS_ADMIN).json()["version"]
    for replica in replicas:
        wait_until(lambda replica=replica: replica.get("/exit-policy").json()["version"] == version)


@pytest.mark.parametrize("end", ["kill", "terminate"])
def test_no_request_is_lost_while_replicas_end_and_come_back_under_load(
    fleet: tuple[Front, list[Replica]], end: str
) -> None:
    front, replicas = fleet
    started, retried = time.monotonic(), front.retried
    load = Load(("localhost", front.port), CLIENTS, front.tls, PAUSE_S)
    try:
        for number in range(KILLS if end == "kill" else ENDS):
            replica = replicas[number % len(replicas)]
            answered = load.fates["200"]
            wait_until(lambda answered=answered: load.fates["200"] >= answered + ANSWERS_BETWEEN)
            getattr(replica.server, end)()
            replica.server.wait_end()
            answered = load.fates["200"]
            wait_until(lambda answered=answered: load.fates["200"] >= answered + ANSWERS_BETWEEN)
            replica.start()
            replica.server.wait_ready()
            wait_until(replica.has_answered)
    finally:
        load.stop()
    told = {"end": end, "fates": dict(load.fates), "sent_again": front.retried - retried}
    print(json.dumps({**told, "seconds": round(time.monotonic() - started, 1)}))
    assert load.fates.keys() == {"200"}
