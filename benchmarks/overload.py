"""Overload: goodput against offered load, from a fifth of the capacity to ten times it.

    python -m benchmarks.overload conll2003-minilm DATA/conll2003/test.conll
    python -m benchmarks.overload conll2003-minilm DATA/conll2003/test.conll --against BEFORE --json FILE --figure FILE
    python -m benchmarks.overload conll2003-minilm DATA/conll2003/test.conll --loads 5 --requests 100000

The mix of requests: single texts, lists of up to 50, long texts, and traces. Every sentence has a number of its own
in it, so that the server never has the same one twice under way, which it would run once. They arrive by a Poisson
process, from several client processes, whether or not earlier ones are answered. Capacity is what this checkout
answers in a closed loop; `--against` names the folder of another checkout, which is offered the same load. After each
load comes a quiet phase, by which one sees whether anything is left behind. Meanwhile GET /readyz is asked on a new
connection each time, on the main port and, where there is one, on the port for health.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import random
import shlex
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.load_client import CONNECTION_FAILED, NOT_ANSWERED, Plan, Report
from benchmarks.load_servers import Server, start_checkout
from benchmarks.load_trials import Client, arrivals, quantile
from benchmarks.overload_figure import draw
from benchmarks.overload_probe import Probe
from service.data.readers import read_examples
from service.models.device import available_cores

HERE = Path(__file__).resolve().parent.parent
LOADS = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # of the capacity
SHARES = {"single": 0.65, "list": 0.25, "long": 0.05, "trace": 0.05}
LONGEST_LIST, LONG_TEXT_SENTENCES = 50, (100, 400)
BODIES = 20_000  # sent in turn: at 2,000 requests a second one comes again after 10 s, the default time limit
QUIET, QUIET_S, BEHIND_S = 0.2, 5.0, 1.0  # load and length of the quiet phase; what comes later must be well
AT_ONCE = 32  # requests of the closed loop that measures the capacity
Row = dict[str, Any]


def main() -> None:
    """Measure and print the table."""
    options = _options()
    texts = [example.text for example in read_examples(options.file)]
    asked = bodies(texts, BODIES, random.Random(0))
    projects = {"now": HERE, **({"before": options.against.resolve()} if options.against else {})}
    rows: list[Row] = []
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(asked[first :: options.clients])) for first in range(options.clients)]
        capacity = options.capacity
        print(_HEADER, flush=True)
        for name, project in projects.items():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            server = start_checkout(project, _settings(options), folder)
            stack.callback(server.close)
            if not capacity:
                capacity = measure_capacity(server, clients, options.seconds)
                print(f"capacity: {capacity:.1f} requests/s", flush=True)
            for load in options.loads:
                seconds = options.requests / (load * capacity) if options.requests else options.seconds
                row = {"checkout": name, **trial(server, clients, load, capacity, seconds, options.timeout_ms / 1_000)}
                rows.append(row)
                print(_line(row), flush=True)
    if options.json:
        options.json.write_text(json.dumps(_document(options, capacity, rows), indent=2) + "\n", encoding="utf-8")
    if options.figure:
        draw(rows, capacity, options.figure)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("file", type=Path)
    parser.add_argument("--store", type=Path, default=HERE / "model_store")
    parser.add_argument("--against", type=Path, help="the folder of another checkout, to compare with")
    parser.add_argument("--loads", type=_numbers, default=LOADS, help="offered loads, as multiples of the capacity")
    parser.add_argument("--capacity", type=float, default=0.0, help="requests per second; 0 measures it")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each load, and of measuring the capacity")
    parser.add_argument("--requests", type=int, help="about how many of each load, instead of --seconds")
    parser.add_argument("--clients", type=int, default=4, help="client processes")
    parser.add_argument("--timeout-ms", type=int, default=10_000, help="time limit of every request")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--figure", type=Path, help="draw goodput against offered load here")
    return parser.parse_args()


def _numbers(listed: str) -> list[float]:
    return [float(number) for number in listed.split(",")]


def _settings(options: argparse.Namespace) -> dict[str, str]:
    path = options.store / options.model
    model = str(path.resolve()) if path.is_dir() else options.model
    versions = sorted(path.iterdir()) if path.is_dir() else []
    return {
        "NER_MODEL": str(versions[-1].resolve()) if versions else model,
        "NER_TIMEOUT_MS": str(options.timeout_ms),
        "NER_HEALTH_PORT": "0",
    }


def bodies(texts: Sequence[str], count: int, draw_from: random.Random) -> list[dict[str, Any]]:
    """Return bodies of POST /ner in the shares of the mix; no two of their sentences are equal."""
    numbers = itertools.count(1)

    def sentences(wanted: int) -> list[str]:
        return [numbered(text, next(numbers)) for text in draw_from.choices(texts, k=wanted)]

    made: list[dict[str, Any]] = []
    for kind in draw_from.choices(list(SHARES), list(SHARES.values()), k=count):
        if kind == "list":
            made.append({"texts": sentences(draw_from.randint(2, LONGEST_LIST))})
        elif kind == "long":
            made.append({"text": " ".join(sentences(draw_from.randint(*LONG_TEXT_SENTENCES)))})
        else:
            made.append({"text": sentences(1)[0], "trace": kind == "trace"})
    return made


def numbered(sentence: str, number: int) -> str:
    """Return a sentence with a number after its first word, where no splitter makes a sentence of its own of it."""
    first, _, rest = sentence.partition(" ")
    return f"{first} {number} {rest}".rstrip()


def in_turn(count: int, num_clients: int) -> list[int]:
    """Return which of its bodies a client sends: one after the other, from the first again after the last."""
    return [index % (BODIES // num_clients) for index in range(count)]


def measure_capacity(server: Server, clients: Sequence[Client], seconds: float) -> float:
    """Return how many requests a second are answered with AT_ONCE under way; about half of the time is a warm-up."""
    rate = 0.0
    for share in (0.1, 0.4, 0.5):
        drawn = in_turn(max(2 * AT_ONCE, round(rate * share * seconds)), len(clients))
        report = clients[0].carry_out(Plan(server.port, drawn, None, 600.0, AT_ONCE))
        rate = sum(status == 200 for status in report.status) / max(report.done)
    return rate


def trial(
    server: Server, clients: Sequence[Client], load: float, capacity: float, seconds: float, limit_s: float
) -> Row:
    """Offer a load from all clients at once, then the quiet phase; return what became of the requests."""
    phases = ((load * capacity / len(clients), seconds), (QUIET * capacity / len(clients), QUIET_S))
    plans = []
    for seed in range(len(clients)):
        due = arrivals(phases, seed)
        plans.append(Plan(server.port, in_turn(len(due), len(clients)), due, 2 * limit_s))
    ports = [server.port, *([port] if (port := server.health_port()) else [])]
    with Probe(ports) as probe, ThreadPoolExecutor(len(clients)) as pool:
        reports = list(pool.map(lambda pair: pair[0].carry_out(pair[1]), zip(clients, plans, strict=True)))
    return {"load": load, "seconds": seconds, **_figures(reports, seconds, limit_s), "readyz_ms": probe.figures()}


def _figures(reports: list[Report], seconds: float, limit_s: float) -> Row:
    """Return figures of what arrived under load, and the share of the quiet phase that was answered as ever."""
    loaded = list[tuple[int, float]]()  # status, seconds from when it was due
    quiet = list[bool]()
    for report in reports:
        for due, done, status in zip(report.due, report.done, report.status, strict=True):
            if due < seconds:
                loaded.append((status, done - due))
            elif due >= seconds + BEHIND_S:
                quiet.append(status == 200 and done - due <= BEHIND_S)
    times_s = sorted(time_s for status, time_s in loaded if status == 200)
    counts = {
        "answered": len(times_s),
        "in_time": sum(time_s <= limit_s for time_s in times_s),
        "refused": sum(status == 429 for status, _ in loaded),
        "late": sum(status == 504 for status, _ in loaded),
        "not_answered": sum(status == NOT_ANSWERED for status, _ in loaded),
        "not_connected": sum(status == CONNECTION_FAILED for status, _ in loaded),
    }
    return {
        "offered": len(loaded) / seconds,
        "goodput": counts["in_time"] / seconds,
        "requests": len(loaded),
        **counts,
        "p50_ms": 1_000 * quantile(times_s, 0.5),
        "p99_ms": 1_000 * quantile(times_s, 0.99),
        "quiet_again": sum(quiet) / len(quiet) if quiet else 0.0,
    }


_HEADER = (
    "checkout   load offered/s goodput/s  refused   late no answer no conn.   p50 ms   p99 ms  quiet again"
    "  readyz p99.9 ms: main, own"
)


def _line(row: Row) -> str:
    readyz = ", ".join(f"{found['p999']:.0f}" for found in row["readyz_ms"])
    return (
        f"{row['checkout']:8} {row['load']:6.1f} {row['offered']:9.1f} {row['goodput']:9.1f} {row['refused']:8} "
        f"{row['late']:6} {row['not_answered']:9} {row['not_connected']:8} {row['p50_ms']:8.0f} {row['p99_ms']:8.0f} "
        f"{row['quiet_again']:12.2f}  {readyz}"
    )


def _document(options: argparse.Namespace, capacity: float, rows: list[Row]) -> Row:
    names = {str(options.file): f"DATA/{options.file.name}", str(options.against): "BEFORE"}
    told = [names.get(argument, argument) for argument in sys.argv[1:]]
    return {
        "command": f"python -m benchmarks.overload {shlex.join(told)}",
        "machine": f"{platform.processor() or platform.machine()}, {available_cores()} cores, shared with the clients",
        "shares": SHARES,
        "capacity": capacity,
        "timeout_ms": options.timeout_ms,
        "rows": rows,
    }


if __name__ == "__main__":
    main()
