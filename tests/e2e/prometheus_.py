"""A Prometheus of the tests' own: the one that is installed, with the project's configuration. No test lives here."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.api.servers_ import PROJECT, wait_until

CONFIGURATION = PROJECT / "docker" / "prometheus"
RULES = sorted((CONFIGURATION / "rules").glob("*.yml"))


def rules() -> list[dict[str, Any]]:
    """Every rule, recording and alerting, as it is written."""
    return [rule for path in RULES for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


@contextmanager
def prometheus_scraping(target: str, folder: Path) -> Iterator[str]:
    """Run Prometheus with the project's configuration and rules on `target` (host:port); -> its URL."""
    targets = folder / "targets.yml"
    targets.write_text(json.dumps([{"targets": [target]}]), encoding="utf-8")
    configuration = (CONFIGURATION / "prometheus.yml").read_text(encoding="utf-8")
    configuration = configuration.replace("/etc/prometheus-targets.yml", str(targets))
    (folder / "prometheus.yml").write_text(configuration, encoding="utf-8")
    shutil.copytree(CONFIGURATION / "rules", folder / "rules")
    log = folder / "prometheus.log"
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--web.listen-address=127.0.0.1:0",
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        wait_until(lambda: process.poll() is not None or "ready to receive web requests" in log.read_text())
        address = re.search(r'"?Listening on"? address=(\S+)', log.read_text())
        if address is None:
            raise RuntimeError(f"Prometheus did not start: {log.read_text()}")
        yield f"http://{address[1]}"
    finally:
        process.terminate()
        process.wait()
