"""A Ray cluster of several nodes on this machine, for benchmarks and tests of a fleet on Ray Serve.

It needs `requirements-ray.txt` in the environment that runs it, and no network. All nodes are processes on 127.0.0.1.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml

PROJECT = Path(__file__).resolve().parent.parent
CONFIG = PROJECT / "service" / "fleet" / "serve.yaml"
APPLICATION, DEPLOYMENT = "ner", "Replica"
APPLICATIONS = "/api/serve/applications/"
PATIENCE_S = 900.0  # until something must have happened, on however busy a machine
LOOK_S = 0.25
OBJECT_STORE_BYTES = 80_000_000  # nothing of ours lies there
Json = dict[str, Any]

MARK = "RAY_NODE_OF_OURS"  # the variable by which the processes of a node are known

PATIENT = {  # so that nodes of a machine that is busy with other things are not given up
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "600",
    "RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT": "600",
    "RAY_raylet_start_wait_time_s": "600",
    "RAY_worker_register_timeout_seconds": "600",
    "RAY_agent_register_timeout_ms": "600000",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
}


def config(port: int, **deployment: Any) -> Json:
    """Return `serve.yaml` for nodes that share one machine: one proxy, on a port; `deployment` replaces its fields."""
    found: Json = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    found["proxy_location"] = "HeadOnly"
    found["http_options"] |= {"host": "127.0.0.1", "port": port}
    found["applications"][0]["deployments"][0] |= deployment
    return found


def between(lowest: int, highest: int, **scaling: Any) -> Json:
    """Return the scaling of `serve.yaml` between other numbers of replicas, beginning with the lowest.

    `scaling` replaces other fields. A fixed number is one between itself and itself: Serve does not start replicas that
    tell how busy they are where nothing is scaled.
    """
    found: Json = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["applications"][0]["deployments"][0]
    limits = {"min_replicas": lowest, "initial_replicas": lowest, "max_replicas": highest}
    return {**found["autoscaling_config"], **limits, **scaling}


def with_settings(config: Json, **settings: str) -> Json:
    """Return a configuration whose replicas have these variables, too."""
    changed = copy.deepcopy(config)
    options = changed["applications"][0]["deployments"][0]["ray_actor_options"]
    options["runtime_env"]["env_vars"] |= settings
    return changed


def free_port() -> int:
    """Return a port that is free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(condition: Callable[[], object], what: Callable[[], object] = lambda: "") -> None:
    """Poll until a condition holds. Raises TimeoutError, with what `what` returns, after PATIENCE_S."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {PATIENCE_S:g} s in vain: {what()}")
        time.sleep(LOOK_S)


@dataclass(frozen=True, slots=True)
class Node:
    """A node: all processes that were started with a mark in their environment, and what they started.

    Ray's workers and agents write their titles over their environment, but their parent keeps its own.
    """

    mark: str
    metrics_port: int

    @property
    def pids(self) -> list[int]:
        """Those of its processes that live."""
        wanted = f"{MARK}={self.mark}".encode()
        found: list[int] = []
        children: dict[int, list[int]] = {}
        for folder in Path("/proc").iterdir():
            with suppress(OSError, ValueError):  # of others, of processes that have just ended, and what is none
                pid = int(folder.name)
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(pid)
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(pid)
        for pid in found:
            found += [child for child in children.get(pid, ()) if child not in found]
        return found

    def metrics(self) -> str:
        """Return what Ray tells Prometheus of this node's processes."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=60) as answer:
            text: str = answer.read().decode()
        return text

    def kill(self) -> None:
        """End all of its processes at once, as when a machine goes dark."""
        while pids := self.pids:  # some may just start others
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)


class RayCluster:
    """Nodes on this machine, the head first; a context, at whose end nothing is left."""

    def __init__(self, cpus: int, **environment: str) -> None:
        """cpus: that every node offers; environment: variables of all their processes, settings of the service too."""
        self._folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # sockets lie here: the name must be short
        self._cpus = cpus
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("NER_")}
        path = f"{Path(sys.executable).parent}:{inherited.get('PATH', '')}"
        spread = {"RAY_SERVE_PROXY_PREFER_LOCAL_NODE_ROUTING": "0"}  # one proxy, and all replicas get their share
        self._environment = {**inherited, **PATIENT, **spread, "PYTHONPATH": str(PROJECT), "PATH": path, **environment}
        self._port, self._dashboard_port = free_port(), free_port()
        self.nodes: list[Node] = []

    def __enter__(self) -> Self:
        try:
            self.add_node()
            wait_until(self._answers)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add_node(self) -> Node:
        """Start a node. Raises RuntimeError if it does not start."""
        number = len(self.nodes)
        node = Node(f"{self._folder.name}-{number}", free_port())
        place = [
            "--node-ip-address=127.0.0.1",
            f"--num-cpus={self._cpus}",
            f"--metrics-export-port={node.metrics_port}",
        ]
        place += [f"--object-store-memory={OBJECT_STORE_BYTES}", f"--dashboard-agent-listen-port={free_port()}"]
        if number == 0:
            place += ["--head", f"--port={self._port}", f"--temp-dir={self._folder}"]
            place += ["--dashboard-host=127.0.0.1", f"--dashboard-port={self._dashboard_port}"]
            place += [f"--ray-client-server-port={free_port()}"]
        else:
            place += [f"--address=127.0.0.1:{self._port}"]
        self.nodes.append(node)
        command = [str(Path(sys.executable).parent / "ray"), "start", *place, "--disable-usage-stats"]
        environment = {**self._environment, MARK: node.mark}
        log = self._folder / f"node-{number}.log"
        with log.open("wb") as output:
            run = subprocess.run(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=PROJECT,
                check=False,
            )
        if run.returncode:
            raise RuntimeError(f"ray start ended with {run.returncode}: {log.read_text()[-4_000:]}")
        return node

    def node_of(self, pid: int) -> Node:
        """Return the node that a process belongs to. Raises LookupError."""
        for node in self.nodes:
            if pid in node.pids:
                return node
        raise LookupError(f"process {pid} is of no node")

    def deploy(self, config: Json) -> None:
        """Have Serve bring about a configuration, as `serve deploy` does, and return at once."""
        self._ask("PUT", APPLICATIONS, json.dumps(config).encode())

    def application(self) -> Json:
        """Return what Serve tells of our application; empty before there is one."""
        found: Json = self._ask("GET", APPLICATIONS)["applications"].get(APPLICATION, {})
        return found

    def replicas(self) -> list[Json]:
        """Return what Serve tells of the replicas that answer: `replica_id`, `pid` and so on."""
        deployment = self.application().get("deployments", {}).get(DEPLOYMENT, {})
        return [one for one in deployment.get("replicas", ()) if one["state"] == "RUNNING"]

    def wait_for_replicas(self, count: int, but_not: Iterable[str] = ()) -> list[Json]:
        """Wait until so many replicas answer and no other; none of them is one of `but_not`, by their ids."""
        unwanted = set(but_not)

        def are_there() -> bool:
            application = self.application()
            if application.get("status") == "DEPLOY_FAILED":
                told = [deployment["message"] for deployment in application["deployments"].values()]
                raise RuntimeError("\n".join([application["message"], *told]))
            ids = {one["replica_id"] for one in self.replicas()}
            return len(ids) == count and not ids & unwanted

        wait_until(are_there, self.application)
        return self.replicas()

    def close(self) -> None:
        """End every process, and remove what they wrote."""
        for node in reversed(self.nodes):
            node.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _answers(self) -> bool:
        with suppress(OSError):
            self.application()
            return True
        return False

    def _ask(self, method: str, path: str, body: bytes | None = None) -> Json:
        url = f"http://127.0.0.1:{self._dashboard_port}{path}"
        headers = {"Content-Type": "application/json"}
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url, body, headers, method=method), timeout=300
            ) as answer:
                said = answer.read()
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{method} {path}: {error.code} {error.read().decode()[-3_000:]}") from error
        return dict(json.loads(said)) if said else {}


def settings(model: str, policy_store: str, admin_key: str, folder: Path) -> dict[str, str]:
    """Return the variables of the service that all nodes need; `folder` takes the state."""
    return {
        "NER_MODEL": model,
        "NER_POLICY_STORE": policy_store,
        "NER_ADMIN_KEY": admin_key,
        "NER_STATE_DIR": str(folder / "state"),
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "service.fleet.retries:middlewares",
    }


@contextmanager
def redis_beside() -> Iterator[str]:
    """Run a Redis with nothing in it, of which nothing is left; -> its URL."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.kill()
            process.wait()


def is_served(url: str) -> bool:
    """Return whether a replica answers behind this address."""
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=60):
            return True
    except OSError:
        return False


def change_policy(url: str, admin_key: str, change: Mapping[str, Any]) -> None:
    """Have a change made to the exit policy. Raises OSError."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {admin_key}"}
    body = json.dumps(change).encode()
    urllib.request.urlopen(urllib.request.Request(f"{url}/exit-policy", body, headers, method="PATCH")).close()
