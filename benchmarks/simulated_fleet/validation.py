"""Holds the simulation against real servers: the same texts at the same moments, by one process and by two."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.load_client import Plan
from benchmarks.load_servers import Server
from benchmarks.load_trials import GOAL_MS, Client, Cores, Seen, arrivals
from benchmarks.load_trials import figures as measured_figures
from benchmarks.simulated_fleet.costs import Costs
from benchmarks.simulated_fleet.figures import figures
from benchmarks.simulated_fleet.process import Served
from benchmarks.simulated_fleet.recording import Recording
from benchmarks.simulated_fleet.servers import start
from benchmarks.simulated_fleet.simulation import Fleet, simulate
from service.models.device import available_cores
from service.models.store import StoredModel

LOADS = (0.2, 0.4, 0.6, 0.75, 0.9)  # of what a closed loop reaches
PROCESSES = (1, 2)
WARM_UP, CLOSED, AT_ONCE = 300, 2_000, 32  # requests, and how many at once in the closed loop
GRACE_S, REST_S = 11.0, 10.0
COMPARED = ("p50_ms", "p99_ms", "goodput")
WITHIN = 0.1  # the goal: of the measured figure
POLICY = "balanced"
Row = dict[str, Any]


def validate(
    stored: StoredModel, texts: Sequence[str], costs: Costs, recording: Recording, seconds: float
) -> Iterator[Row]:
    """Yield for every number of processes and every load what was measured, what was simulated, and the difference."""
    with TemporaryDirectory() as folder, Client(texts) as client:
        for processes in PROCESSES:
            settings = {"NER_PROCESSES": str(processes)}
            with start(stored, {"preset": POLICY}, settings, Path(folder)) as server:
                capacity = _capacity(server, client, len(texts))
                for number, load in enumerate(LOADS):
                    rate = load * capacity
                    due = arrivals([(rate, seconds)], seed=number)
                    draw = random.Random(number)
                    asked = [draw.randrange(len(texts)) for _ in due]
                    told = _measured(server, client, asked, due, seconds)
                    fleet = Fleet(Served(POLICY), 1, available_cores(), processes, has_client=True)
                    outcome = simulate(fleet, costs, recording, np.array(due), texts=asked, seed=number)
                    foretold = asdict(figures(outcome.calls, seconds, recording))
                    yield {
                        "processes": processes,
                        "load": load,
                        "rate": rate,
                        "measured": told,
                        "simulated": {name: foretold[name] for name in (*COMPARED, "refused", "failed")},
                        "off_by": off_by(told, foretold),
                    }


def off_by(measured: Mapping[str, float], simulated: Mapping[str, float]) -> dict[str, float]:
    """Return by how much of what was measured the simulation is off, figure by figure."""
    return {name: simulated[name] / measured[name] - 1 if measured[name] else 0.0 for name in COMPARED}


def share_within(rows: Sequence[Row]) -> dict[str, float]:
    """Return in which share of the rows each figure is within WITHIN."""
    return {name: sum(abs(row["off_by"][name]) <= WITHIN for row in rows) / max(1, len(rows)) for name in COMPARED}


def _capacity(server: Server, client: Client, num_texts: int) -> float:
    """Return how many requests a second are answered with so many under way, after a warm-up."""
    client.carry_out(Plan(server.port, [number % num_texts for number in range(WARM_UP)], None, 60.0, AT_ONCE))
    asked = [number % num_texts for number in range(CLOSED)]
    report = client.carry_out(Plan(server.port, asked, None, 60.0, AT_ONCE))
    return report.status.count(200) / max(report.done)


def _measured(
    server: Server, client: Client, asked: list[int], due: list[float], seconds: float
) -> dict[str, float | bool]:
    report = client.carry_out(Plan(server.port, asked, due, GRACE_S))
    found = measured_figures(Seen(report, seconds, Cores(0.0, report.cpu_s / seconds, 0.0)))
    client.carry_out(Plan(server.port, [0], None, REST_S))  # until it answers at once again
    told = asdict(found)
    kept = (*COMPARED, "offered", "refused", "failed", "lateness_p99_ms", "cores_client")
    return {**{name: told[name] for name in kept}, "client_too_late": found.is_late}


HEAD = (
    f"{'processes':>9} {'load':>5} {'rate':>7}   p50 ms, p99 ms, goodput within {GOAL_MS:.0f} ms: measured / simulated"
)


def line(row: Row) -> str:
    """Return a row as it is printed."""
    pairs = [f"{row['measured'][name]:8.1f} /{row['simulated'][name]:8.1f}" for name in COMPARED]
    late = "  the client was late" if row["measured"]["client_too_late"] else ""
    return f"{row['processes']:9} {row['load']:5.2f} {row['rate']:7.1f}   {'   '.join(pairs)}{late}"
