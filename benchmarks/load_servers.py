"""Server processes for `benchmarks.load`: each is started on a free port, and always ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

READY_S = 300.0  # the first start compiles kernels
END_S = 15.0
ADMIN_KEY = "benchmark"


@dataclass(slots=True)
class Server:
    """A running server process; `log` is what it wrote to stderr."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    @property
    def port(self) -> int:
        """The port on which it listens, on 127.0.0.1."""
        return int(self.url.rpartition(":")[2])

    def health_port(self) -> int | None:
        """Return the port for health alone; None where there is none."""
        found: int | None = _ready_event(self.log).get("health_port")
        return found

    def cpu_s(self) -> float:
        """Return the processor seconds of all its threads so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """End the process, by force if it does not end by itself."""
        self.process.terminate()
        try:
            self.process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start_ours(model: Path, change: Mapping[str, Any], folder: Path) -> Server:
    """Start our server with its defaults, under the exit policy that `change` makes; `folder` takes state and log."""
    settings = {"NER_MODEL": str(model.resolve()), "NER_PORT": "0", "NER_STATE_DIR": str(folder / "state")}
    settings |= {"NER_ADMIN_KEY": ADMIN_KEY, "NER_DRAIN_S": "0"}
    server = _start([sys.executable, "-m", "service", "serve"], settings, folder / "server.log")
    try:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {ADMIN_KEY}"}
        body = json.dumps(change).encode()
        request = urllib.request.Request(f"{server.url}/exit-policy", body, headers, method="PATCH")
        urllib.request.urlopen(request).close()
    except BaseException:
        server.close()
        raise
    return server


def start_checkout(project: Path, settings: Mapping[str, str], folder: Path) -> Server:
    """Start our server as it stands in the folder `project`; `folder` takes state and log. Else its own defaults."""
    settings = {"NER_PORT": "0", "NER_STATE_DIR": str(folder / "state"), "NER_DRAIN_S": "0", **settings}
    settings["PYTHONPATH"] = str(project)
    return _start([sys.executable, "-m", "service", "serve"], settings, folder / "server.log", project)


def start_peer(checkpoint: Path, threads: int, folder: Path) -> Server:
    """Start the peer on a checkpoint folder that `build_peer` wrote; threads: torch's, 0 for all cores."""
    command = [sys.executable, "-m", "benchmarks.load_peer", str(checkpoint), str(threads)]
    return _start(command, {}, folder / "peer.log")


def _start(command: list[str], settings: Mapping[str, str], log: Path, folder: Path | None = None) -> Server:
    """Start a process in a folder, and wait for the line of its log that says where it listens."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NER_")}
    with log.open("wb") as stderr:  # a file, not a pipe, which would stop the server if nobody read it
        process = subprocess.Popen(
            command, cwd=folder, env={**environment, **settings}, stdout=subprocess.DEVNULL, stderr=stderr
        )
    server = Server(process, "", log)
    try:
        server.url = _wait_until_ready(process, log)
    except BaseException:
        server.close()
        raise
    return server


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path) -> str:
    """Return the URL. Raises SystemExit if the process ends, or is not ready within READY_S."""
    deadline = time.monotonic() + READY_S
    while process.poll() is None and time.monotonic() < deadline:
        if event := _ready_event(log):
            return str(event["url"])
        time.sleep(0.05)
    raise SystemExit(f"the server did not start:\n{log.read_text(encoding='utf-8')[-2_000:]}")


def _ready_event(log: Path) -> dict[str, Any]:
    """Return the line of a log that says where the server listens; empty before it is there."""
    for line in log.read_text(encoding="utf-8").splitlines():
        if line.startswith("{") and line.endswith("}") and (event := json.loads(line)).get("event") == "ready":
            return dict(event)
    return {}
