"""A fleet on Ray Serve: two nodes on this machine; replicas and nodes killed under load, a rolled model, a day of load.

`make raytest` runs it: it needs Ray, which nothing else does.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import httpx2 as httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from benchmarks import ray_cluster
from benchmarks.ray_cluster import wait_until
from tests.api.servers_ import ADMIN_KEY, AS_ADMIN, NAMES
from tests.e2e.customer_ import Customer
from tests.e2e.load_ import Load
from tests.exits.calibrations_ import put_calibration
from tests.models_ import save_tiny_model, tiny_config
from tests.policy.redis_ import RedisServer, needs_redis

pytestmark = [
    needs_redis,
    pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray: `make raytest` installs it and runs this"),
]

CHANGES = 40
CLIENTS = 4
LATE_S = 1.0  # by which a change must be in force everywhere
QUICK = {  # a fleet that is looked at often, so that tests need not wait
    "health_check_period_s": 1,
    "graceful_shutdown_wait_loop_s": 0.5,
    "max_replicas_per_node": 1,
}
TEXT = {"text": "Ada Lovelace worked with Charles Babbage in London."}


def tiny(folder: Path, version: str) -> Path:
    """A calibrated tiny model of that version."""
    return put_calibration(save_tiny_model(folder / "tiny" / version, tiny_config(version=version)))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two versions of one model."""
    folder = tmp_path_factory.mktemp("store")
    return [tiny(folder, "1"), tiny(folder, "2")]


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


class Fleet:
    """Two nodes with a replica each, behind one proxy."""

    def __init__(self, folder: Path, models: list[Path], redis_server: RedisServer) -> None:
        self.port = ray_cluster.free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.model = models[0]
        settings = ray_cluster.settings(str(models[0]), redis_server.url, ADMIN_KEY, folder)
        quick = {"RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5", "NER_ALLOWED_HOSTS": NAMES}
        self.cluster = ray_cluster.RayCluster(2, **settings, **quick, NER_EXECUTOR="eager", NER_SHADOW_FRACTION="0")

    def start(self) -> None:
        """Return once both replicas answer."""
        self.cluster.add_node()
        self.stand(self.model)

    def stand(self, model: Path) -> None:
        """Bring it to two replicas of a model on two nodes, whatever it is now."""
        self.model = model
        self.deploy(autoscaling_config=ray_cluster.between(2, 2))
        self.cluster.wait_for_replicas(2)

    def deploy(self, **deployment: object) -> None:
        """As `serve deploy`, with these fields of the deployment."""
        config = ray_cluster.config(self.port, **QUICK, **deployment)
        self.cluster.deploy(ray_cluster.with_settings(config, NER_MODEL=str(self.model)))

    def load(self, clients: int = CLIENTS) -> Load:
        return Load(("127.0.0.1", self.port), clients)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, models: list[Path], redis_server: RedisServer) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path_factory.mktemp("fleet"), models, redis_server)
    with fleet.cluster:
        fleet.start()
        yield fleet


@pytest.fixture
def client(fleet: Fleet) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=fleet.url, headers=AS_ADMIN, timeout=120, trust_env=False) as client:
        yield client


class Asker(Customer):
    """Notes when it asked, and which version answered."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.answers: list[tuple[float, int]] = []

    def ask(self) -> None:
        with httpx.Client(base_url=self.url, timeout=120, trust_env=False) as client:
            while not self.enough.wait(0.005):
                asked = time.monotonic()
                answer = client.post("/ner", json=TEXT)
                assert answer.status_code == 200, answer.text
                self.answers.append((asked, answer.json()["policy_version"]))


def versions(client: httpx.Client, count: int = 30) -> dict[str, float]:
    """Replica -> the policy's version that its own metrics tell, of the replicas that so many questions reach."""
    found = {}
    for _ in range(count):
        for family in text_string_to_metric_families(client.get("/metrics").text):
            if family.name == "ner_exit_policy_version":
                found |= {sample.labels["replica"]: sample.value for sample in family.samples}
    return found


def test_a_change_is_soon_in_force_at_all_replicas_and_none_goes_back(fleet: Fleet, client: httpx.Client) -> None:
    made: list[tuple[float, int]] = []
    with Asker(fleet.url) as one, Asker(fleet.url) as other:
        for layer in [1 + number % 4 for number in range(CHANGES)]:
            answer = client.patch("/exit-policy", json={"strategy": "budgeted", "layer": layer})
            assert answer.status_code == 200, answer.text
            made.append((time.monotonic(), answer.json()["version"]))
        time.sleep(2 * LATE_S)
    first = made[0][1]
    assert [version for _, version in made] == list(range(first, first + CHANGES))
    answers = one.answers + other.answers
    late = [(asked, version) for asked, version in answers if version < in_force(made, asked - LATE_S)]
    assert late == []
    seen = versions(client)
    assert len(seen) == 2 and set(seen.values()) == {first + CHANGES - 1}
    print(json.dumps({"changes": CHANGES, "answers": len(answers), "by_a_version_older_than_1_s": len(late)}))


def in_force(made: list[tuple[float, int]], at: float) -> int:
    """The last version that was made by then."""
    return max((version for when, version in made if when <= at), default=0)


def test_ray_tells_prometheus_the_series_of_every_replica(fleet: Fleet, client: httpx.Client) -> None:
    expected, buckets = set(versions(client).items()), set[str]()

    def told() -> set[tuple[str, float]]:
        texts = [node.metrics() for node in fleet.cluster.nodes if node.pids]
        families = [family for text in texts for family in text_string_to_metric_families(text)]
        samples = [one for family in families for one in family.samples]
        buckets.update(one.labels["replica"] for one in samples if one.name == "ray_ner_step_seconds_bucket")
        return {(one.labels["replica"], one.value) for one in samples if one.name == "ray_ner_exit_policy_version"}

    wait_until(lambda: told() >= expected, lambda: (told(), expected))
    assert buckets >= {replica for replica, _ in expected}


def test_requests_of_a_replica_that_is_killed_are_answered_by_the_other(fleet: Fleet) -> None:
    load = fleet.load()
    try:
        for number in range(3):
            before = fleet.cluster.wait_for_replicas(2)
            time.sleep(1)
            os.kill(before[number % 2]["pid"], signal.SIGKILL)
            fleet.cluster.wait_for_replicas(2, but_not=[before[number % 2]["replica_id"]])
    finally:
        load.stop()
    print(json.dumps({"killed": 3, **load.fates}))
    assert set(load.fates) == {"200"}


def test_requests_of_a_node_that_is_killed_are_answered_by_the_other(fleet: Fleet) -> None:
    head = fleet.cluster.nodes[0]
    load = fleet.load()
    try:
        time.sleep(1)
        for node in fleet.cluster.nodes[1:]:
            node.kill()
        fleet.cluster.wait_for_replicas(1)
        assert fleet.cluster.node_of(fleet.cluster.replicas()[0]["pid"]) is head
        fleet.cluster.add_node()
        fleet.cluster.wait_for_replicas(2)
    finally:
        load.stop()
    print(json.dumps({"nodes_killed": 1, **load.fates}))
    assert set(load.fates) == {"200"}


def test_a_new_version_of_the_model_takes_over_replica_by_replica(fleet: Fleet, models: list[Path]) -> None:
    before = [one["replica_id"] for one in fleet.cluster.wait_for_replicas(2)]
    load = fleet.load()
    try:
        fleet.model = models[1]
        fleet.deploy(autoscaling_config=ray_cluster.between(2, 2))
        fleet.cluster.wait_for_replicas(2, but_not=before)
    finally:
        load.stop()
    with httpx.Client(base_url=fleet.url, timeout=120, trust_env=False) as client:
        served = {client.post("/ner", json=TEXT).json()["model"] for _ in range(20)}
    print(json.dumps({"rolled": 2, **load.fates}))
    assert set(load.fates) == {"200"} and served == {"tiny@2"}


def test_a_fleet_grows_while_the_autopilot_gives_up_accuracy_and_shrinks_when_it_is_calm(
    fleet: Fleet, client: httpx.Client
) -> None:
    fast = {"look_back_period_s": 2, "upscale_delay_s": 3, "downscale_delay_s": 4, "metrics_interval_s": 0.5}
    fleet.deploy(autoscaling_config=ray_cluster.between(1, 2, **fast))
    fleet.cluster.wait_for_replicas(1)
    told = client.patch("/exit-policy", json={"autopilot": {"p95_ms": 1, "max_f1_loss": 100}})  # out of reach
    assert told.status_code == 200, told.text
    counts: list[tuple[float, int]] = []
    began = time.monotonic()
    fates = Counter[str]()
    for clients, wanted in ((8, 2), (0, 1), (8, 2), (0, 1)):  # day, night, day, night
        load = fleet.load(clients)
        try:
            fleet.cluster.wait_for_replicas(wanted)
        finally:
            load.stop()
        counts.append((round(time.monotonic() - began, 1), wanted))
        fates += load.fates
    wait_until(lambda: client.get("/exit-policy").json()["autopilot"]["level"] == 0)
    print(json.dumps({"replicas": counts, **fates}))
    assert set(fates) <= {"200", "429"}
    fleet.stand(fleet.model)


def test_a_fleet_answers_beside_a_redis_that_is_gone(
    fleet: Fleet, client: httpx.Client, redis_server: RedisServer
) -> None:
    load = fleet.load()
    try:
        redis_server.kill()
        answer = client.patch("/exit-policy", json={"strategy": "full_depth"})
        assert (answer.status_code, answer.json()["error_type"]) == (503, "PolicyStoreDown")
        assert client.get("/readyz").status_code == 200
        redis_server.start()
    finally:
        load.stop()
    print(json.dumps({"redis_killed": 1, **load.fates}))
    assert set(load.fates) == {"200"}
