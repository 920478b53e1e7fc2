"""Measures what the event loop's Python takes, in a real server, as the processor time of the thread that it runs on.

A layer and an exit are then of no account: all texts leave after layer 1.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.load_client import Plan, Report
from benchmarks.load_servers import Server
from benchmarks.load_trials import Client
from benchmarks.simulated_fleet.costs import Costs, PythonCosts
from benchmarks.simulated_fleet.servers import processor_s, start
from service.models.store import StoredModel

ALONE, AT_ONCE, TIMES = 300, 16, 1_500  # requests that measure the event loop
HASTY_MS, HASTY, HASTY_TIMES = 40, 200, 4_000  # time limit and requests at once with which most are refused


@dataclass(frozen=True, slots=True)
class _LoopSeen:
    """What a request took of the event loop's thread, in seconds, and its pieces, both on average."""

    loop_s: float
    report: Report
    pieces: float

    @property
    def answered(self) -> int:
        return self.report.status.count(200)


def measure_loop(
    stored: StoredModel, texts: Sequence[str], pieces: Sequence[int], engine: Costs, folder: Path
) -> PythonCosts:
    """Return all Python costs: those of the engine as they are in `engine`, the event loop's of real servers."""
    ordered = sorted(range(len(texts)), key=lambda text: pieces[text])
    python = engine.python
    short, long = ordered[: len(ordered) // 3], ordered[-len(ordered) // 3 :]
    change = {"strategy": "budgeted", "layer": 1}
    with Client(texts) as client:
        with start(stored, change, {"NER_THREADS": "1"}, folder) as server:
            _loop(server, client, short, pieces, TIMES // 3, AT_ONCE)  # a warm-up
            busy = _loop(server, client, short, pieces, TIMES, AT_ONCE)
            busy_long = _loop(server, client, long, pieces, TIMES // 2, AT_ONCE)
            alone = _loop(server, client, short, pieces, ALONE, 1)
        hasty = {"NER_THREADS": "1", "NER_TIMEOUT_MS": str(HASTY_MS)}
        with start(stored, change, hasty, folder) as server:
            _loop(server, client, short, pieces, TIMES // 3, 1)
            refusing = _loop(server, client, short, pieces, HASTY_TIMES, HASTY)
    piece = max(0.0, (busy_long.loop_s - busy.loop_s) / (busy_long.pieces - busy.pieces))
    turn = max(0.0, (alone.loop_s - busy.loop_s) / 2)  # alone, a turn when it comes, and one when it goes
    took = statistics.median(_taking_s(timing) for timing in alone.report.timing if timing)
    share = min(max(took / alone.loop_s, 0.3), 0.8)
    refused = len(refusing.report.status) - refusing.answered
    spent_s = refusing.loop_s * len(refusing.report.status) - busy.loop_s * refusing.answered
    client_s = busy.report.cpu_s / TIMES
    latency = statistics.median(done - due for done, due in zip(alone.report.done, alone.report.due, strict=True))
    worked_s = alone.loop_s + client_s + _engine_alone_s(engine, alone.pieces)
    return replace(
        python,
        turn=turn,
        take=max(0.0, share * busy.loop_s - piece * busy.pieces),
        piece=piece,
        reply=(1 - share) * busy.loop_s,
        refusal=max(0.0, spent_s / refused) if refused > HASTY_TIMES / 20 else share * busy.loop_s,
        wake=max(0.0, latency - worked_s) / 3,  # the loop's for the request, the engine's, the loop's for the answer
        client=client_s,
    )


def _loop(
    server: Server, client: Client, among: Sequence[int], pieces: Sequence[int], count: int, at_once: int
) -> _LoopSeen:
    """Ask for texts in turn, so many at once."""
    asked = [among[number % len(among)] for number in range(count)]
    before = processor_s(server.process.pid)
    report = client.carry_out(Plan(server.port, asked, None, 60.0, at_once))
    spent_s = processor_s(server.process.pid) - before
    return _LoopSeen(spent_s / count, report, statistics.fmean(pieces[text] for text in asked))


def _taking_s(timing: str) -> float:
    """Return the seconds until a request was submitted, of its header Server-Timing."""
    stages = dict(part.strip().partition(";dur=")[::2] for part in timing.split(","))
    return float(stages["tokenize"]) / 1_000


def _engine_alone_s(costs: Costs, pieces: float) -> float:
    """Return what the engine takes for one sequence of a layer, by the costs."""
    python, kernels = costs.python, costs.of_threads(1)
    return python.step + python.sequence + python.answer + kernels.seconds(1, 1, round(pieces), with_exit=True)
