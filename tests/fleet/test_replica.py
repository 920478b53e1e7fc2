"""A replica: refused without what makes many one service, told from others by its metrics, honest about its health."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from service.api.state import Service
from service.errors import BadInput
from service.fleet.replica import Load, build_replica, check_health, take_folder
from service.fleet.told import ReplicaMetrics
from service.settings import Settings
from tests.api.servers_ import ADMIN_KEY, AS_ADMIN, NAMES, tiny_service
from tests.engine.scripted_ import Clock
from tests.fleet.test_told import Ray
from tests.policy.redis_ import RedisServer, needs_redis


def settings(model_folder: Path, folder: Path, **changed: Any) -> Settings:
    fixed = {"model": str(model_folder), "device": "cpu", "executor": "eager", "allowed_hosts": NAMES}
    shared = {"state_dir": folder, "admin_key": ADMIN_KEY, "policy_store": "redis://127.0.0.1:1/0"}
    return Settings(**{**fixed, **shared, **changed})


@pytest.mark.parametrize(
    ("changed", "variable"),
    [
        ({"policy_store": ""}, "NER_POLICY_STORE is unset"),
        ({"admin_key": ""}, "NER_ADMIN_KEY"),
        ({"processes": 2}, "NER_PROCESSES=2"),
    ],
)
def test_settings_with_which_replicas_would_differ_are_refused(
    model_folder: Path, tmp_path: Path, changed: dict[str, Any], variable: str
) -> None:
    with pytest.raises(BadInput, match=variable):
        build_replica(settings(model_folder, tmp_path, **changed), 1, ReplicaMetrics("a", Ray().gauge))


def test_every_replica_of_a_machine_has_a_folder_and_a_later_one_takes_what_was_left(tmp_path: Path) -> None:
    taken = [take_folder(tmp_path) for _ in range(3)]
    assert [folder.name for folder, _ in taken] == ["replica-1", "replica-2", "replica-3"]
    taken[1][1].release()
    assert take_folder(tmp_path)[0].name == "replica-2"


@needs_redis
def test_a_change_at_one_replica_is_in_force_at_another_and_metrics_say_whose_they_are(
    model_folder: Path, tmp_path: Path
) -> None:
    with RedisServer(tmp_path / "redis") as redis_server:
        given = settings(model_folder, tmp_path, policy_store=redis_server.url)
        names = ("one", "other")
        apps = [build_replica(given, 1, ReplicaMetrics(name, Ray().gauge)) for name in names]
        with TestClient(apps[0]) as one, TestClient(apps[1]) as other:
            change = {"strategy": "budgeted", "layer": 2}
            assert one.patch("/exit-policy", json=change, headers=AS_ADMIN).json()["version"] == 2
            assert other.patch("/exit-policy", json=change, headers=AS_ADMIN).json()["version"] == 3
            for client, name in zip((one, other), names, strict=True):
                families = list(text_string_to_metric_families(client.get("/metrics").text))
                assert {sample.labels["replica"] for family in families for sample in family.samples} == {name}
                assert "ner_exit_policy_version" in {family.name for family in families}
        assert {app.state.service.settings.threads for app in apps} == {1}


@pytest.fixture
def service(model_folder: Path, tmp_path: Path) -> Service:
    return tiny_service(model_folder, tmp_path)


def test_health_is_what_readyz_would_say(service: Service) -> None:
    with pytest.raises(RuntimeError, match="stuck"):  # the engine has not begun
        check_health(service)
    service.engine.start()
    check_health(service)
    service.is_draining = True
    with pytest.raises(RuntimeError, match="draining"):
        check_health(service)
    service.is_draining = False
    service.engine.close()
    with pytest.raises(RuntimeError, match="503"):
        check_health(service)


@pytest.mark.parametrize(
    ("worker_s", "loop_s", "process_s", "busy"),
    [(0.0, 0.0, 0.0, 0.0), (1.5, 0.2, 1.7, 0.75), (0.2, 1.0, 1.2, 0.5), (0.1, 0.1, 3.2, 0.8), (3.0, 0.0, 0.0, 1.0)],
)
def test_a_replica_is_as_busy_as_its_busiest_part(
    service: Service, worker_s: float, loop_s: float, process_s: float, busy: float
) -> None:
    clock, loop, process = Clock(100.0), Clock(7.0), Clock(9.0)
    load = Load(service, 2, lambda: clock.now, lambda: loop.now, lambda: process.now)
    service.traffic.step_done(worker_s)
    clock.now, loop.now, process.now = clock.now + 2.0, loop.now + loop_s, process.now + process_s
    assert load.look() == {"busy": pytest.approx(busy), "level": 0.0}
    assert load.look() == {"busy": 0.0, "level": 0.0}
    clock.now += 1.0
    assert load.look() == {"busy": 0.0, "level": 0.0}
