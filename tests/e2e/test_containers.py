"""The composed containers as an operator runs them: built, started, asked, turned, killed, stopped."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx2 as httpx
import pytest

from tests.api.servers_ import PATIENCE_S, wait_until
from tests.e2e.containers_ import BUILD_TIMEOUT_S, Composition, docker, is_ready, require_engine
from tests.e2e.panels_ import DASHBOARDS, empty_panels

IMAGE = "vee-ner:cpu"
TEXT = {"text": "Angela Merkel flew from Rome to meet officials of the European Commission."}
ENTITIES = ["Angela Merkel", "Rome", "European Commission"]
AVERAGE_EXIT_LAYER = "rate(ner_layers_executed_total[15s]) / rate(ner_sequences_total[15s])"

KILL = """
import os, signal
for process in filter(str.isdigit, os.listdir("/proc")):
    with open(f"/proc/{process}/cmdline") as file:
        if file.read().startswith("python\\0-m\\0service"):
            os.kill(int(process), signal.SIGKILL)
"""  # a `docker kill` would count as a wish of the operator's, and nothing would come back

RUNNING = r"\nner_requests_running\{.*\} [3-9]"  # more than the traffic brings about
CLIENTS = 8
PRESS = f"""
import asyncio, collections, json
from load.client import REFUSED, send
outcomes = collections.Counter()

async def press_on():
    outcome = ""
    while outcome != REFUSED:
        outcome = await send("http://ner:8000/ner", "", "Angela Merkel flew from Rome to Oslo. " * 5)
        outcomes[outcome] += 1

async def main():
    await asyncio.gather(*(press_on() for _ in range({CLIENTS})))

asyncio.run(main())
print(json.dumps(outcomes))
"""  # from inside the network: on a published port Docker's proxy accepts connections for nobody, too


@pytest.fixture(scope="module")
def composition() -> Iterator[Composition]:
    """The image built from the Dockerfile as it is; service, Prometheus and traffic up and healthy."""
    require_engine()
    composed = Composition()
    try:
        composed.compose("build", "ner", timeout_s=BUILD_TIMEOUT_S)
        composed.up()
        yield composed
    finally:
        composed.close()


def test_the_service_answers(composition: Composition) -> None:
    answer = composition.service.post("/ner", json=TEXT).json()
    assert [entity["text"] for entity in answer["entities"]] == ENTITIES
    assert composition.service.get("/info").json()["threads"] <= 2


def test_the_image_has_neither_a_compiler_nor_cuda(composition: Composition) -> None:
    look = "for tool in cc gcc g++ clang c++ nvcc; do command -v $tool; done; ls /opt/venv/lib/python3*/site-packages"
    found = docker("run", "--rm", "--entrypoint", "sh", IMAGE, "-c", look).splitlines()
    assert "torch" in found
    assert not [name for name in found if name.startswith(("/", "nvidia", "cuda", "triton"))]


def test_the_service_runs_without_rights_and_can_write_to_its_state_alone(composition: Composition) -> None:
    look = """
        id -u; grep CapEff /proc/self/status
        for folder in / /app /opt/venv /etc /var/lib/ner; do touch $folder/x && echo $folder; done 2>/dev/null; true
    """
    found = composition.compose("exec", "-T", "ner", "sh", "-c", look)
    assert found.split() == ["10001", "CapEff:", "0" * 16, "/var/lib/ner"]


def test_images_are_pinned_and_ports_are_published_on_the_loopback_alone(composition: Composition) -> None:
    services = json.loads(composition.compose("config", "--format", "json"))["services"]
    assert services.keys() == {"ner", "prometheus", "grafana", "load"}
    for service in services.values():
        assert service["image"] == IMAGE or service["image"].rpartition(":")[2].strip("v")[0].isdigit()
        assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", []))


def test_the_gpu_override_takes_the_cuda_image_and_a_gpu() -> None:
    require_engine()
    files = ("--file", "docker-compose.yml", "--file", "docker-compose.gpu.yml")
    service = json.loads(docker("compose", *files, "config", "--format", "json"))["services"]["ner"]
    assert service["build"]["target"] == "cuda" and service["image"] == "vee-ner:cuda"
    assert service["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    assert service["read_only"] and service["environment"]["NER_DEVICE"] == "cuda"


def test_the_fleet_is_two_replicas_with_one_policy_behind_tls() -> None:
    require_engine()
    whole = ("compose", "--env-file", "docker/fleet.env", "config", "--format", "json")
    services = json.loads(docker(*whole, NER_ADMIN_KEY="key"))["services"]
    assert services.keys() == {"ner", "ner-2", "front", "redis", "prometheus", "grafana"}
    replicas = [services[name] for name in ("ner", "ner-2")]
    assert {replica["environment"]["NER_POLICY_STORE"] for replica in replicas} == {"redis://redis:6379/0"}
    assert {replica["environment"]["NER_ADMIN_KEY"] for replica in replicas} == {"key"}
    assert len({volume["source"] for replica in replicas for volume in replica["volumes"]}) == 2
    assert "ports" not in services["ner-2"] and "ports" not in services["redis"]
    [port] = services["front"]["ports"]
    assert (port["host_ip"], port["published"], port["target"]) == ("127.0.0.1", "8443", 8443)
    said = services["front"]["environment"]
    assert said["HAS_POLICY_STORE"] and said["HAS_ADMIN_KEY"]
    scraped = [volume["source"] for volume in services["prometheus"]["volumes"] if "targets" in volume["target"]]
    assert [Path(source).name for source in scraped] == ["fleet.yml"]
    for name in ("front", "redis"):
        assert services[name]["read_only"] and services[name]["cap_drop"] == ["ALL"] and services[name]["mem_limit"]
        assert services[name]["image"].rpartition(":")[2][0].isdigit()


def test_prometheus_shows_the_average_exit_layer_falling_after_a_patch(composition: Composition) -> None:
    composition.change_policy(strategy="full_depth")
    wait_until(lambda: composition.value(AVERAGE_EXIT_LAYER) == 6.0)
    composition.change_policy(preset="fast")
    wait_until(lambda: (composition.value(AVERAGE_EXIT_LAYER) or 6.0) < 2.0)


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_every_panel_has_data(composition: Composition, dashboard: Path) -> None:
    right = composition.service.post("/ner", json=TEXT).json()["entities"]
    assert composition.service.post("/feedback", json={**TEXT, "entities": right}).is_success
    with suppress(TimeoutError):
        wait_until(lambda: not empty_panels(dashboard, composition.prometheus_url))
    assert empty_panels(dashboard, composition.prometheus_url) == []


def test_a_killed_service_comes_back_with_its_policy_and_its_history(composition: Composition) -> None:
    policy = composition.change_policy(strategy="pabee", patience=2)
    history = composition.service.get("/exit-policy/history").json()
    composition.compose("exec", "-T", "ner", "python", "-c", KILL)
    wait_until(lambda: composition.container("ner")["RestartCount"] == 1)
    wait_until(lambda: is_ready(composition.address))
    found = composition.service.get("/exit-policy").json()
    assert {**found, "observed": None} == {**policy, "observed": None}
    assert composition.service.get("/exit-policy/history").json() == history


def test_state_and_measurements_outlive_the_containers(composition: Composition) -> None:
    policy = composition.change_policy(strategy="budgeted", layer=3)
    wait_until(lambda: composition.value("ner_exit_policy_version") == policy["version"])
    taken_down = time.time()
    composition.compose("down")
    composition.up()
    assert composition.service.get("/exit-policy").json()["version"] == policy["version"]
    assert (composition.value("min_over_time(timestamp(ner_engine_up)[10m:5s])") or math.inf) < taken_down


def test_on_another_processor_the_kernels_are_compiled_anew_on_a_read_only_root(composition: Composition) -> None:
    settings = ("NUMBA_CPU_NAME=generic", "NUMBA_CPU_FEATURES=", "NER_EXECUTOR=fused", "NER_THREADS=1")
    options = ("--read-only", "--tmpfs", "/tmp", *(word for setting in settings for word in ("--env", setting)))
    name = docker("run", "--detach", "--publish", "127.0.0.1::8000", *options, IMAGE).strip()
    try:
        address = docker("port", name, "8000").strip()
        wait_until(lambda: is_ready(address))
        answer = httpx.post(f"http://{address}/ner", json=TEXT, timeout=PATIENCE_S, trust_env=False).json()
        count = "for folder in /app/kernels /tmp/kernels; do find $folder -name *.nbc | wc -l; done"
        at_build, here = map(int, docker("exec", name, "sh", "-c", count).split())
    finally:
        docker("rm", "--force", "--volumes", name)
    assert [entity["text"] for entity in answer["entities"]] == ENTITIES
    assert here == 2 * at_build > 0


def test_a_stop_under_load_loses_no_request(composition: Composition) -> None:
    composition.compose("restart", "load")  # what it counts begins anew
    with ThreadPoolExecutor() as pool:
        pressing = pool.submit(composition.compose, "exec", "-T", "load", "python", "-c", PRESS)
        wait_until(lambda: re.search(RUNNING, composition.service.get("/metrics").text))
        composition.compose("stop", "ner")
        pressed = json.loads(pressing.result())
    composition.compose("stop", "load")
    assert composition.container("ner")["State"]["ExitCode"] == 0
    assert pressed.keys() == {"200", "refused"} and pressed["refused"] == CLIENTS
    assert composition.traffic().keys() <= {"running", "200", "refused"}
