"""How many requests a second the server answers over HTTP, measured by wrk: checkouts and settings in turn, in one run.

    python -m benchmarks.front general-minilm DATA/conll2003/test.conll --against BEFORE --json FILE

A request asks for one sentence. wrk (a package of most systems) keeps connections busy; the rate of a way is the
highest that it reached with a p99 within 100 ms, whatever the number of connections. Ways take turns, and the median of
the rounds counts. `before` is the checkout that `--against` names, with the settings that it knows.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import tempfile
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.load_servers import ADMIN_KEY, Server, start_checkout
from benchmarks.peers import processor
from service.data.readers import read_examples
from service.models.device import available_cores

HERE = Path(__file__).resolve().parent.parent
SCRIPT = Path(__file__).with_name("requests.lua")
CONNECTIONS = (1, 8, 16, 32)
HIGHEST_P99_MS = 100.0
TEXTS = 2_000
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Way:
    """A server to measure: its checkout, its settings, and the change of the exit policy."""

    name: str
    project: Path
    settings: Mapping[str, str]
    change: Mapping[str, Any]


def ways(options: argparse.Namespace) -> list[Way]:
    """Return what is compared."""
    cores = available_cores()
    found = []
    for policy, change in (("balanced", {"preset": "balanced"}), ("full depth", {"strategy": "full_depth"})):
        for threads in sorted({1, cores}):
            found.append(Way(f"{policy}, 1 process of {threads}", HERE, {"NER_THREADS": str(threads)}, change))
        several = {"NER_PROCESSES": str(cores), "NER_THREADS": str(cores)}
        found.append(Way(f"{policy}, {cores} processes of 1", HERE, several, change))
        if options.against:
            found.append(Way(f"{policy}, before", options.against.resolve(), {}, change))
    return [way for way in found if options.only in way.name]


def start(way: Way, options: argparse.Namespace, folder: Path) -> Server:
    """Start the server of a way, under its policy."""
    model = {"NER_MODEL": options.model, "NER_ADMIN_KEY": ADMIN_KEY}
    server = start_checkout(way.project, {**model, **way.settings}, folder)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {ADMIN_KEY}"}
    body = json.dumps(way.change).encode()
    urllib.request.urlopen(urllib.request.Request(f"{server.url}/exit-policy", body, headers, method="PATCH")).close()
    return server


def load(url: str, bodies: Path, connections: int, seconds: float) -> Row:
    """Keep connections busy for so long; return requests a second, p50 and p99 in milliseconds, and errors."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "10s", "-s", str(SCRIPT), url]
    told = subprocess.run([*command, "--", str(bodies)], capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in told.splitlines() if line.startswith("RESULT ")]
    requests, micros, p50, p99, errors = map(int, line.split()[1:])
    rate = requests / (micros / 1e6)
    return {"connections": connections, "rate": rate, "p50_ms": p50 / 1e3, "p99_ms": p99 / 1e3, "errors": errors}


def best(rows: list[Row]) -> Row:
    """Return the row of the highest rate among those whose p99 is within the limit; of all, if none is."""
    within = [row for row in rows if row["p99_ms"] <= HIGHEST_P99_MS and not row["errors"]]
    return max(within or rows, key=lambda row: float(row["rate"]))


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("file", type=Path, help="annotated texts, of which requests are made")
    parser.add_argument("--against", type=Path, help="the folder of another checkout")
    parser.add_argument("--only", default="", help="only ways whose name has this in it")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the rows here")
    options = parser.parse_args()
    compared = ways(options)
    found: dict[str, list[list[Row]]] = {way.name: [] for way in compared}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        texts = [example.text for example in read_examples(options.file)]
        drawn = random.Random(0).sample(texts, min(TEXTS, len(texts)))
        bodies = folder / "bodies"
        bodies.write_text("".join(json.dumps({"text": text}) + "\n" for text in drawn), encoding="utf-8")
        for number in range(options.rounds):
            for index, way in enumerate(compared):
                own = folder / f"{number}-{index}"
                own.mkdir()
                server = start(way, options, own)
                try:
                    load(server.url, bodies, CONNECTIONS[-1], 1.0)
                    rows = [load(server.url, bodies, connections, options.seconds) for connections in CONNECTIONS]
                finally:
                    server.close()
                found[way.name].append(rows)
                print(number, f"{way.name:32}", " ".join(_told(row) for row in rows), flush=True)
    figures = {name: [best(rows) for rows in rounds] for name, rounds in found.items()}
    for name, rows in figures.items():
        one = statistics.median(rounds[0]["p50_ms"] for rounds in found[name])
        rate = statistics.median(row["rate"] for row in rows)
        print(f"{name:32} {rate:7.0f} requests/s, {one:.2f} ms for one client")
    if options.json:
        document = {"processor": processor(), "cores": available_cores(), "model": options.model, "ways": found}
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _told(row: Row) -> str:
    errors = f" {row['errors']} errors" if row["errors"] else ""
    return f"c{row['connections']}: {row['rate']:.0f}/s p50 {row['p50_ms']:.2f} p99 {row['p99_ms']:.1f}{errors};"


if __name__ == "__main__":
    main()
