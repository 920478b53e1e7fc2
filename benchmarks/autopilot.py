"""A peak over HTTP: the load steps to twice what full depth can serve, with the autopilot and without.

    python -m benchmarks.autopilot conll2003-minilm DATA/conll2003/test.conll --json FILE --figure docs/autopilot.png

First the capacity of full depth is searched: the largest rate at which its p99 stays within 100 ms. Then fixed full
depth and the autopilot get the same texts at the same moments of a Poisson process: at .4 times that capacity, at 2
times, and at .4 times again. A text is a few consecutive sentences. Latency counts from the moment that a request was
due. The client is a process of its own on the same cores as the server; the server's counters are read once a second.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import threading
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.autopilot_figure import draw
from benchmarks.load_servers import Server, start_ours
from benchmarks.load_trials import (
    GOAL_MS,
    Client,
    Phase,
    Second,
    Seen,
    Stand,
    between,
    errors_of,
    figures,
    search,
    timeline,
)
from service.assets import assets_of
from service.data.readers import read_examples
from service.exits.operating_points import Calibration
from service.models.device import available_cores
from service.models.store import StoredModel, find_model, load_model

SEED = 1
LOW, PEAK = 0.4, 2.0  # times full depth's capacity
TRIAL_S, TRIAL_GRACE_S, TRIES, SEARCH_STEP = 4.0, 1.0, 2, 1.1  # of the search for the capacity
GRACE_S = 11.0  # our server gives up a request after 10 s
POLICIES = ("full_depth", "autopilot")
Row = dict[str, Any]
Levels = Sequence[Mapping[str, Any]]  # the policy parameters of each level


@dataclass(frozen=True, slots=True)
class Flight:
    """How one policy came through the peak. Times are seconds from the start of the first phase.

    seconds  the figures of every second, by arrival
    layers   (time, average exit layer of the sequences answered in the second before)
    moves    (time, level) of every move of the autopilot
    """

    seen: Seen
    seconds: list[Second]
    layers: list[tuple[float, float]]
    moves: list[tuple[float, int]]

    def absorbed_s(self, start: float, end: float) -> int | None:
        """Return after how many seconds from `start` the goal is kept up to `end`; None if its last second fails."""
        late = [second.second for second in self.seconds[int(start) : int(end)] if not second.keeps_goal]
        absorbed = max(late, default=int(start) - 1) + 1 - int(start)
        return None if absorbed == int(end) - int(start) else absorbed


class Watch:
    """Reads a server's counters once a second, in a thread, while a trial runs."""

    def __init__(self, server: Server) -> None:
        self._url = server.url
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._read: list[tuple[float, float, float]] = []  # time; sum and count of exit layers

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._is_over.wait(1.0):
            with urllib.request.urlopen(f"{self._url}/metrics", timeout=30) as response:
                lines = [
                    line.split() for line in response.read().decode().splitlines() if line.startswith("ner_exit_layer")
                ]
            values = {line[0].partition("{")[0]: float(line[1]) for line in lines}
            self._read.append((time.time(), values["ner_exit_layer_sum"], values["ner_exit_layer_count"]))

    def average_exit_layers(self, began: float) -> list[tuple[float, float]]:
        """Return (time, average exit layer) of every reading before which a sequence was answered."""
        return [
            (round(at - began, 2), (layers - layers_before) / (count - count_before))
            for (_, layers_before, count_before), (at, layers, count) in pairwise(self._read)
            if count > count_before
        ]


@dataclass(slots=True)
class Bench:
    """What all trials share; `server` is the one that was started last."""

    model: Path
    levels: Levels
    objective: Mapping[str, float]
    client: Client
    num_texts: int
    folder: Path
    server: Server | None = None

    def stand(self, policy: str) -> Stand:
        """Return a started server under full depth or the autopilot, to be used in `with`."""
        change = {"autopilot": self.objective} if policy == "autopilot" else {"strategy": policy}
        return Stand(policy, partial(self._start, change), self.client, self.num_texts)

    def _start(self, change: Mapping[str, Any]) -> Server:
        self.server = start_ours(self.model, change, self.folder)
        return self.server

    def capacity(self) -> float:
        """Return the largest rate, in texts per second, at which full depth keeps the goal in one of TRIES."""
        with self.stand("full_depth") as stand:

            def keeps_goal(rate: float) -> bool:
                trials = (stand.open([(rate, TRIAL_S)], SEED + number, TRIAL_GRACE_S) for number in range(TRIES))
                return any(figures(seen).keeps_goal for seen in trials)

            alone = stand.closed(range(60)).report.done
            return search(keeps_goal, keeps_goal, len(alone) / alone[-1], SEARCH_STEP)

    def fly(self, policy: str, phases: Sequence[Phase]) -> Flight:
        """Return how one policy comes through all phases."""
        with self.stand(policy) as stand:
            server = self.server
            if server is None:
                raise RuntimeError("a stand without a server")
            began = time.time()
            with Watch(server) as watch:
                seen = stand.open(phases, SEED, GRACE_S)
            with urllib.request.urlopen(f"{server.url}/exit-policy/history") as response:
                history = json.load(response)
        return Flight(seen, timeline(seen), watch.average_exit_layers(began), self._moves(history, began))

    def _moves(self, history: Sequence[Mapping[str, Any]], began: float) -> list[tuple[float, int]]:
        moves = []
        for entry in reversed(history):
            if entry["by"] == "autopilot":
                parameters = {name: value for name, value in entry["after"].items() if name != "autopilot"}
                at = datetime.fromisoformat(entry["at"]).timestamp() - began
                moves.append((round(at, 2), self.levels.index(parameters)))
        return moves


def main() -> None:
    """Measure, print the tables, and write the files."""
    options = _options()
    stored = load_model(find_model(options.model, options.store))
    objective = {"p95_ms": options.p95_ms, "max_f1_loss": options.max_f1_loss}
    texts = _texts(options.file, options.sentences, options.texts)
    load_average = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder, Client(texts) as client:
        levels = _levels(stored, options.max_f1_loss)
        bench = Bench(stored.folder, levels, objective, client, len(texts), Path(folder))
        capacity = bench.capacity()
        told = f"{capacity:.0f} texts of {options.sentences} sentences a second"
        print(f"full depth keeps p99 within {GOAL_MS:.0f} ms up to {told}", flush=True)
        phases = [
            (share * capacity, float(seconds)) for share, seconds in zip((LOW, PEAK, LOW), options.seconds, strict=True)
        ]
        flights = {policy: bench.fly(policy, phases) for policy in POLICIES}
    rows = [_row(policy, flight, phases) for policy, flight in flights.items()]
    _print(rows)
    document = {
        "command": f"python -m benchmarks.autopilot {stored.config.name} DATA/{options.file.name}",
        "sentences": options.sentences,
        "model": stored.reference,
        "objective": objective,
        "levels": [dict(level) for level in levels],
        "capacity": capacity,
        "phases": phases,
        "note": f"{available_cores()} cores for server and client; load average before the run: {load_average:.1f}",
        "rows": rows,
    }
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if options.figure:
        draw(rows, phases, len(levels), options.figure)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("file", type=Path)
    parser.add_argument("--store", type=Path, default=Path("model_store"))
    parser.add_argument("--sentences", type=int, default=4, help="of a text, as they follow each other in the file")
    parser.add_argument("--texts", type=int, default=300, help="how many, drawn at random with a fixed seed")
    parser.add_argument("--seconds", type=int, nargs=3, default=(8, 20, 32), help="of the phases: whole seconds")
    parser.add_argument("--p95-ms", type=float, default=GOAL_MS, help="the autopilot's objective")
    parser.add_argument("--max-f1-loss", type=float, default=1.0)
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--figure", type=Path, help="draw it here")
    return parser.parse_args()


def _texts(file: Path, sentences: int, count: int) -> list[str]:
    examples = read_examples(file)
    starts = range(0, len(examples) - sentences + 1, sentences)
    rows = [" ".join(example.text for example in examples[start : start + sentences]) for start in starts]
    return random.Random(0).sample(rows, min(count, len(rows)))


def _levels(stored: StoredModel, max_f1_loss: float) -> Levels:
    if stored.operating_points is None:
        raise SystemExit(f"{stored.reference} is not calibrated")
    calibration = Calibration.from_json(stored.operating_points, assets_of(stored.model))
    return [point.parameters for point in calibration.ladder(max_f1_loss)]


def _row(policy: str, flight: Flight, phases: Sequence[Phase]) -> Row:
    """Return a policy's figures over all phases, and over the peak once it is absorbed."""
    step = phases[0][1]
    end = step + phases[1][1]
    absorbed_s = flight.absorbed_s(step, end)
    afterwards = None if absorbed_s is None else between(flight.seen, step + absorbed_s, end).to_json()
    return {
        "policy": policy,
        "before": between(flight.seen, 0, step).to_json(),
        "peak": between(flight.seen, step, end).to_json(),
        "absorbed_s": absorbed_s,
        "peak_once_absorbed": afterwards,
        "behind": between(flight.seen, end, flight.seen.seconds).to_json(),
        "moves": flight.moves,
        "average_exit_layers": flight.layers,
        "errors": errors_of(flight.seen.report),
        "client_too_late": figures(flight.seen).is_late,
        "cores": asdict(flight.seen.cores),
        "seconds": [second.to_json() for second in flight.seconds],
    }


def _print(rows: Sequence[Row]) -> None:
    for row in rows:
        print(f"\n{row['policy']}: absorbed the step in {row['absorbed_s']} s, errors {row['errors'] or 'none'}")
        for stretch in ("before", "peak", "peak_once_absorbed", "behind"):
            if (found := row[stretch]) is not None:
                latency = f"p50 {found['p50_ms']} ms, p99 {found['p99_ms']} ms"
                lost = f"{found['refused']} refused, {found['failed']} failed of {found['offered']}"
                print(f"  {stretch:18s} {latency}, {lost}")
        print(f"  moves (when, level): {row['moves']}")
        print(f"  client too late: {row['client_too_late']}, cores: {row['cores']}")


if __name__ == "__main__":
    main()
