"""A day of a fleet on Ray Serve: how many replicas there are, how far their autopilots had to go, and who was answered.

    PYTHONPATH=docker python -m benchmarks.ray_day general-minilm --seconds 300 --json FILE

A fleet of one to four replicas of one core, with the autopilot on, gets news-like texts at the rate of a day with lunch
and dinner, which passes in so many seconds. Latency is not what it scales by (see service/fleet/scaling.py). It needs
requirements-ray.txt and redis-server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path

from load.arrivals import DAY_S, arrival_times
from load.client import send
from load.texts import text
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.load_servers import ADMIN_KEY
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
from service.models.device import available_cores

LOOK_S = 1.0  # between two looks
HIGHEST_REPLICAS = 4
DELAYS = {
    "look_back_period_s": 4,
    "metrics_interval_s": 1,
    "upscale_delay_s": 5,
    "downscale_delay_s": 10,
}


@dataclass(frozen=True, slots=True)
class Moment:
    """Seconds since the start, replicas that answer, the mean of their levels, and what became of requests so far."""

    second: float
    replicas: int
    level: float
    fates: Mapping[str, int]


async def live_through(cluster: RayCluster, url: str, seconds: float, peak_rate: float) -> list[Moment]:
    """Send what a day brings in so many seconds, at so many requests a second at dinner; return what it was like."""
    faster = DAY_S / seconds
    draw = random.Random(1)
    due = [at / faster for at in takewhile(lambda at: at < DAY_S, arrival_times(peak_rate / faster, draw))]
    fates: Counter[str] = Counter()
    moments: list[Moment] = []
    began = time.monotonic()

    async def ask() -> None:
        fates[await send(f"{url}/ner", "", text(draw))] += 1

    async def watch() -> None:
        while True:
            replicas, level = await asyncio.to_thread(_seen, cluster)
            moments.append(Moment(round(time.monotonic() - began, 1), replicas, level, dict(fates)))
            await asyncio.sleep(LOOK_S)

    watching = asyncio.create_task(watch())
    async with asyncio.TaskGroup() as asking:
        for at in due:
            await asyncio.sleep(max(0.0, began + at - time.monotonic()))
            asking.create_task(ask())
    watching.cancel()
    return [*moments, Moment(round(time.monotonic() - began, 1), *_seen(cluster), dict(fates))]


def _seen(cluster: RayCluster) -> tuple[int, float]:
    """Return how many replicas answer, and the mean of the levels that they told Ray last."""
    alive = {one["replica_id"] for one in cluster.replicas()}
    levels = [
        sample.value
        for node in cluster.nodes
        for family in text_string_to_metric_families(node.metrics())
        for sample in family.samples
        if sample.name == "ray_ner_autopilot_level" and sample.labels["replica"] in alive
    ]
    return len(alive), statistics.fmean(levels) if levels else 0.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--seconds", type=float, default=300.0, help="that the day lasts")
    parser.add_argument("--peak-rate", type=float, default=400.0, help="requests a second at dinner")
    parser.add_argument("--p95-ms", type=float, default=50.0, help="the autopilot's objective")
    parser.add_argument("--json", type=Path, help="write the moments here")
    options = parser.parse_args()
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    model = str(Path(options.model).resolve()) if Path(options.model).is_dir() else options.model
    with tempfile.TemporaryDirectory() as folder, redis_beside() as store:
        given = settings(model, store, ADMIN_KEY, Path(folder))
        push = {"RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1"}
        with RayCluster(HIGHEST_REPLICAS, **given, **push) as cluster:
            cluster.deploy(config(port, autoscaling_config=between(1, HIGHEST_REPLICAS, **DELAYS)))
            cluster.wait_for_replicas(1)
            wait_until(lambda: is_served(url))
            change_policy(url, ADMIN_KEY, {"autopilot": {"p95_ms": options.p95_ms, "max_f1_loss": 1.0}})
            moments = asyncio.run(live_through(cluster, url, options.seconds, options.peak_rate))
    print(f"{'second':>6} {'replicas':>8} {'level':>6}  what became of requests so far")
    for moment in [*moments[:: max(1, len(moments) // 30)], moments[-1]]:
        print(f"{moment.second:6.0f} {moment.replicas:8d} {moment.level:6.2f}  {dict(moment.fates)}")
    if options.json:
        machine = {"processor": processor(), "cores": available_cores(), "load_average": os.getloadavg()[0]}
        given = {"model": options.model, "seconds": options.seconds, "peak_rate": options.peak_rate}
        document = {**machine, **given, "p95_ms": options.p95_ms, "moments": [asdict(moment) for moment in moments]}
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
