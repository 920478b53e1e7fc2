"""What Ray Serve adds to a request, and what a second replica is worth: beside the plain server, in one run.

    python -m benchmarks.ray_serve general-minilm DATA/conll2003/test.conll --json FILE

It takes some three minutes. Ways take turns, --rounds times: the plain server with one and with two processes of one
thread, and fleets of one and of two replicas of one core, behind Serve's proxy and behind its HAProxy. wrk keeps
connections busy, with one text a request. A way's rate is the highest with a p99 within 100 ms, whatever the number of
connections; its p50 and p99 are those of one connection. Server and client share the machine's cores.

It needs requirements-ray.txt, wrk and redis-server; HAProxy is left out where there is no haproxy, or no socat, by
which Serve talks to it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.front import CONNECTIONS, HERE, TEXTS, Row, best, load
from benchmarks.load_servers import ADMIN_KEY, start_checkout
from benchmarks.peers import processor
from benchmarks.ray_cluster import (
    RayCluster,
    between,
    change_policy,
    config,
    free_port,
    is_served,
    redis_beside,
    settings,
    wait_until,
)
from service.data.readers import read_examples
from service.models.device import available_cores


@dataclass(frozen=True, slots=True)
class Way:
    """A way to serve: by processes of the plain server, or by replicas behind one of Serve's fronts."""

    name: str
    count: int
    front: str = ""


WAYS = (
    Way("plain, 1 process", 1),
    Way("plain, 2 processes", 2),
    Way("Serve's proxy, 1 replica", 1, "proxy"),
    Way("Serve's proxy, 2 replicas", 2, "proxy"),
    Way("Serve's HAProxy, 1 replica", 1, "haproxy"),
    Way("Serve's HAProxy, 2 replicas", 2, "haproxy"),
)


@contextmanager
def served(way: Way, options: argparse.Namespace) -> Iterator[str]:
    """Start the server of a way, under its policy, and end it afterwards; -> its URL."""
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory()))
        url = _fleet(way, options, folder, held) if way.front else _plain(way, options, folder, held)
        change_policy(url, ADMIN_KEY, {"preset": options.preset} if options.preset else {"strategy": "full_depth"})
        yield url


def _plain(way: Way, options: argparse.Namespace, folder: Path, held: ExitStack) -> str:
    count = str(way.count)
    given = {"NER_MODEL": options.model, "NER_ADMIN_KEY": ADMIN_KEY, "NER_THREADS": count, "NER_PROCESSES": count}
    server = start_checkout(HERE, given, folder)
    held.callback(server.close)
    return server.url


def _fleet(way: Way, options: argparse.Namespace, folder: Path, held: ExitStack) -> str:
    given = settings(options.model, held.enter_context(redis_beside()), ADMIN_KEY, folder)
    if way.front == "haproxy":
        given |= {
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
            "RAY_SERVE_HAPROXY_NBTHREAD": "1",
            "RAY_SERVE_HAPROXY_MAXCONN": "2000",  # each may take two open files, of which there may be few
        }
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    cluster = held.enter_context(RayCluster(way.count, **given))
    cluster.deploy(config(port, autoscaling_config=between(way.count, way.count)))
    cluster.wait_for_replicas(way.count)
    wait_until(lambda: is_served(url))
    return url


def ways(options: argparse.Namespace) -> list[Way]:
    """Return what is compared: of --only, and with HAProxy where all that Serve needs for it is installed."""
    has_haproxy = all(shutil.which(program) for program in ("haproxy", "socat"))
    return [way for way in WAYS if options.only in way.name and (way.front != "haproxy" or has_haproxy)]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("file", type=Path, help="annotated texts, of which requests are made")
    parser.add_argument("--preset", default="balanced", help="the exit policy; empty for full depth")
    parser.add_argument("--only", default="", help="only ways whose name has this in it")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the rows here")
    options = parser.parse_args()
    if Path(options.model).is_dir():
        options.model = str(Path(options.model).resolve())  # replicas run in other folders
    before = os.getloadavg()[0]
    texts = [example.text for example in read_examples(options.file)]
    drawn = random.Random(0).sample(texts, min(TEXTS, len(texts)))
    compared = ways(options)
    found: dict[str, list[list[Row]]] = {way.name: [] for way in compared}
    with tempfile.TemporaryDirectory() as folder:
        bodies = Path(folder) / "bodies"
        bodies.write_text("".join(json.dumps({"text": text}) + "\n" for text in drawn), encoding="utf-8")
        for number in range(options.rounds):
            for way in compared:
                with served(way, options) as url:
                    load(url, bodies, CONNECTIONS[-1], 2.0)
                    rows = [load(url, bodies, connections, options.seconds) for connections in CONNECTIONS]
                found[way.name].append(rows)
                print(number, f"{way.name:28}", " ".join(_told(row) for row in rows), flush=True)
    _print(found)
    if options.json:
        machine = {"processor": processor(), "cores": available_cores(), "load_average_before": before}
        versions = {name: version(name) for name in ("ray", "fastapi", "uvicorn", "torch")}
        document: dict[str, Any] = {**machine, "versions": versions, "model": options.model, "ways": found}
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _print(found: dict[str, list[list[Row]]]) -> None:
    print(f"\n{'way':28} {'requests/s':>10} {'p50 ms':>8} {'p99 ms':>8} {'errors':>7}")
    for name, rounds in found.items():
        rate = statistics.median(best(rows)["rate"] for rows in rounds)
        p50, p99 = (statistics.median(rows[0][field] for rows in rounds) for field in ("p50_ms", "p99_ms"))
        errors = sum(row["errors"] for rows in rounds for row in rows)
        print(f"{name:28} {rate:10.0f} {p50:8.2f} {p99:8.2f} {errors:7}")


def _told(row: Row) -> str:
    errors = f" {row['errors']} errors" if row["errors"] else ""
    return f"c{row['connections']}: {row['rate']:.0f}/s p50 {row['p50_ms']:.2f} p99 {row['p99_ms']:.1f}{errors};"


if __name__ == "__main__":
    main()
