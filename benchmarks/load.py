"""Load over HTTP: requests arrive whether or not earlier ones are answered, at our server and at a peer's.

    python -m benchmarks.load conll2003-minilm DATA/conll2003/test.conll --rates 50,100,200
    python -m benchmarks.load conll2003-minilm DATA/conll2003/test.conll --search --step --low-load --json FILE

Competitors take turns, one server process at a time: `peer`, a Transformers pipeline behind FastAPI with an encoder of
the same shape (see `load_peer`), and our server under `full_depth` and under presets. All get the same texts, one per
request, at the same moments of a Poisson process. Latency counts from the moment that a request was due. The client is
a process of its own, on the same cores as the server; rows in which the client was late are marked. The default mode is
rates.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import platform
import random
import shlex
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.engines import PolicyInForce, load, policies_of, start_engine
from benchmarks.load_client import NICENESS
from benchmarks.load_low import EngineHere, low_load
from benchmarks.load_peer import build_peer
from benchmarks.load_servers import Server, start_ours, start_peer
from benchmarks.load_trials import (
    CONFIRMATIONS,
    DISTURBED_CORES,
    GOAL_MS,
    LATE_MS,
    Client,
    DoubleArray,
    Second,
    Stand,
    errors_of,
    figures,
    median_of,
    recovery_s,
    search,
    timeline,
)
from service.data.readers import read_examples
from service.executors.choose import make_executor
from service.executors.executor import Executor
from service.exits.operating_points import PRESETS
from service.models.device import available_cores
from service.models.store import StoredModel

COMPETITORS = ("peer", "full_depth", "balanced", "fast")
PATIENCE_S = 11.0  # our server gives up a request after 10 s
SEARCH_S, SEARCH_GRACE_S, SEARCH_STEP = 4.0, 1.0, 1.06
FEWEST_REQUESTS, LONGEST_TRIAL_S, TRIES = 300, 20.0, 3  # of a search's trials: of fewer requests, a p99 is one or two
SEED = 1
Row = dict[str, Any]


def main() -> None:
    """Measure and print the tables."""
    options = _options()
    stored = load(options.model, options.store)
    examples = read_examples(options.file)
    drawn = random.Random(0).sample(examples, min(options.texts, len(examples)))
    texts = [example.text for example in drawn]
    note = _note()
    print(
        f"{stored.reference}, {len(texts)} texts of {options.file.name}, one a request.\n{note}\n{_LEGEND}", flush=True
    )
    with tempfile.TemporaryDirectory() as folder, Client(texts) as client:
        if "peer" in options.competitors:
            (checkpoint := Path(folder) / "checkpoint").mkdir()
            build_peer(stored, examples, checkpoint)
        bench = Bench(stored, make_executor("auto", stored.model), options, texts, client, Path(folder))
        rows: list[Row] = []
        for is_wanted, mode in (
            (options.rates, rates),
            (options.search, largest_rates),
            (options.step, steps),
            (options.low_load, low_loads),
        ):
            if is_wanted:
                rows += mode(bench)
    if options.json:
        options.json.write_text(json.dumps(_document(bench, note, rows), indent=2) + "\n", encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("file", type=Path)
    parser.add_argument("--store", type=Path, default=Path("model_store"))
    parser.add_argument("--competitors", type=_names, default=COMPETITORS, help=f"of peer, full_depth, {PRESETS}")
    parser.add_argument("--peer-threads", type=int, default=0, help="torch threads of the peer; 0: all cores, as ours")
    parser.add_argument("--texts", type=int, default=600, help="how many texts, drawn at random with a fixed seed")
    parser.add_argument("--seconds", type=float, default=8.0, help="of a trial, and of a step")
    parser.add_argument("--rates", type=_numbers, default=[], help="requests per second, 50,100,200,400 if no mode is")
    parser.add_argument("--repetitions", type=int, default=1, help="of every rate; medians are told")
    parser.add_argument("--search", action="store_true", help=f"the largest rate with p99 <= {GOAL_MS:.0f} ms")
    parser.add_argument("--step", action="store_true", help="a base rate, five times it, and the base rate again")
    parser.add_argument("--step-rate", type=float, default=100.0, help="the base rate of --step")
    parser.add_argument("--low-load", action="store_true", help="what HTTP adds to the engine")
    parser.add_argument("--low-rate", type=float, default=20.0, help="requests per second of --low-load")
    parser.add_argument("--low-texts", type=int, default=200, help="texts of --low-load, one at a time")
    parser.add_argument("--json", type=Path, help="write the rows here")
    options = parser.parse_args()
    if not (options.rates or options.search or options.step or options.low_load):
        options.rates = [50.0, 100.0, 200.0, 400.0]
    return options


def _names(argument: str) -> tuple[str, ...]:
    names = tuple(argument.split(","))
    known = ("peer", "full_depth", *PRESETS)
    if unknown := set(names) - set(known):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))} unknown; expected some of {', '.join(known)}")
    return names


def _numbers(argument: str) -> list[float]:
    return [float(number) for number in argument.split(",")]


@dataclass(slots=True)
class Bench:
    """What all modes of the benchmark share."""

    stored: StoredModel
    executor: Executor
    options: argparse.Namespace
    texts: list[str]
    client: Client
    folder: Path

    def stand(self, competitor: str) -> Stand:
        """Return a started competitor, to be used in `with`."""
        return Stand(competitor, self._start(competitor), self.client, len(self.texts))

    def _start(self, competitor: str) -> Callable[[], Server]:
        if competitor == "peer":
            return partial(start_peer, self.folder / "checkpoint", self.options.peer_threads, self.folder)
        change = {"strategy": competitor} if competitor == "full_depth" else {"preset": competitor}
        return partial(start_ours, self.stored.folder, change, self.folder)


def rates(bench: Bench) -> list[Row]:
    """Return the figures of every competitor at every rate."""
    print(f"\n{'competitor':12s} {_FIGURES_HEAD}")
    rows: list[Row] = []
    for competitor in bench.options.competitors:
        with bench.stand(competitor) as stand:
            for rate in bench.options.rates:
                trials, errors = [], dict[str, int]()
                for repetition in range(bench.options.repetitions):
                    seen = stand.open([(rate, bench.options.seconds)], SEED + repetition, PATIENCE_S)
                    trials.append(figures(seen))
                    for error, count in errors_of(seen.report).items():
                        errors[error] = errors.get(error, 0) + count
                found = median_of(trials)
                print(f"{competitor:12s} {_line(found)}{f'  {errors}' if errors else ''}", flush=True)
                rows.append({"kind": "rate", "competitor": competitor, "rate": rate, **_row(found), "errors": errors})
    return rows


_FIGURES_HEAD = (
    f"{'offered':>8s} {'answered':>8s} {'p50 ms':>8s} {'p99 ms':>8s} {'429 %':>6s} {'failed %':>8s} {'goodput':>8s}"
    f" {'late ms':>8s}  cores: server client others"
)


def _line(found: DoubleArray) -> str:
    return (
        f"{found.offered:8.1f} {found.answered:8.1f} {found.p50_ms:8.1f} {found.p99_ms:8.1f} {100 * found.refused:6.1f}"
        f" {100 * found.failed:8.1f} {found.goodput:8.1f} {found.lateness_p99_ms:8.2f}"
        f"{'!' if found.is_late else ' '}        {found.cores_server:6.2f} {found.cores_client:6.2f}"
        f" {found.cores_others:6.2f}{'~' if found.is_disturbed else ' '}"
    )


def _row(found: DoubleArray) -> Row:
    row = {name: _finite(value) for name, value in asdict(found).items()}
    return {**row, "client_too_late": found.is_late, "disturbed": found.is_disturbed}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def largest_rates(bench: Bench) -> list[Row]:
    """Return every competitor's largest rate that keeps the goal, and the ratios between these rates."""
    print(f"\nlargest rate with p99 <= {GOAL_MS:.0f} ms and under 1 % refused; the median of its confirming trials:")
    print(f"{'competitor':12s} {'rate':>8s} {_FIGURES_HEAD}")
    rows: list[Row] = []
    for competitor in bench.options.competitors:
        with bench.stand(competitor) as stand:
            row, found = _largest_rate(stand, bench.options.seconds)
        print(f"{competitor:12s} {row['rate']:8.1f} {_line(found) if found else 'not even the lowest'}", flush=True)
        rows.append(row)
    return [*rows, *_ratios({row["competitor"]: row["rate"] for row in rows})]


def _largest_rate(stand: Stand, seconds: float) -> tuple[Row, DoubleArray | None]:
    """Return the row of a competitor, and the figures of the trials that confirmed its largest rate."""
    tried: list[Row] = []
    confirmed: list[DoubleArray] = []

    def trial(rate: float, shortest_s: float) -> DoubleArray:
        """Run a trial; repeat it, a few times at most, if the client was late, since it then says nothing."""
        seconds = max(shortest_s, min(LONGEST_TRIAL_S, FEWEST_REQUESTS / rate))
        for _ in range(TRIES):
            found = figures(stand.open([(rate, seconds)], SEED + len(tried), SEARCH_GRACE_S))
            tried.append({"rate": rate, "seconds": seconds, "keeps_goal": found.keeps_goal, **_row(found)})
            if not found.is_late:
                break
        return found

    def confirm(rate: float) -> bool:
        confirmed[:] = [trial(rate, seconds) for _ in range(CONFIRMATIONS)]
        return 2 * sum(found.keeps_goal for found in confirmed) > CONFIRMATIONS

    alone = stand.closed(range(100))
    start = 100 / alone.report.done[-1]  # answers per second, one at a time
    rate = search(lambda rate: trial(rate, min(seconds, SEARCH_S)).keeps_goal, confirm, start, SEARCH_STEP)
    found = median_of(confirmed) if rate else None
    row = {"kind": "search", "competitor": stand.name, "rate": rate, **(_row(found) if found else {}), "tried": tried}
    return row, found


def _ratios(largest: dict[str, float]) -> list[Row]:
    """Return ratios of the largest rates: early exit to full depth, and our server to the peer."""
    rows: list[Row] = []
    for under in ("full_depth", "peer"):
        for name, rate in largest.items():
            if name not in ("peer", under) and largest.get(under):
                ratio = rate / largest[under]
                print(f"{name} / {under}: {ratio:.2f}")
                rows.append({"kind": "ratio", "of": name, "to": under, "ratio": ratio})
    return rows


def steps(bench: Bench) -> list[Row]:
    """Return how every competitor takes a step of load: a base rate for --seconds / 2, then 5 times it for --seconds.

    The base rate follows again for 1.5 times --seconds.
    """
    base, seconds = bench.options.step_rate, bench.options.seconds
    phases = [(base, seconds / 2), (5 * base, seconds), (base, 1.5 * seconds)]
    rows: list[Row] = []
    lines: dict[str, list[Second]] = {}
    for competitor in bench.options.competitors:
        with bench.stand(competitor) as stand:
            seen = stand.open(phases, SEED, PATIENCE_S)
        found, recovered = figures(seen), recovery_s(seen, 1.5 * seconds)
        lines[competitor] = timeline(seen)
        row = {"kind": "step", "competitor": competitor, "phases": phases, "recovery_s": recovered, **_row(found)}
        told = [second.to_json() for second in lines[competitor]]
        rows.append({**row, "errors": errors_of(seen.report), "timeline": told})
    _print_steps(base, phases, lines, rows)
    return rows


def _print_steps(
    base: float, phases: list[tuple[float, float]], lines: dict[str, list[Second]], rows: list[Row]
) -> None:
    told = ", ".join(f"{rate:.0f}/s for {seconds:g} s" for rate, seconds in phases)
    print(f"\nstep from {base:.0f}/s: {told}; p99 ms (429 %) by second of arrival")
    print(f"{'second':>6s} {'offered':>8s}" + "".join(f" {name:>16s}" for name in lines))
    for seconds in zip(*lines.values(), strict=True):
        cells = [f"{second.p99_ms:8.0f} ({100 * second.refused / max(1, second.offered):3.0f} %)" for second in seconds]
        print(f"{seconds[0].second:6d} {seconds[0].offered:8d}" + "".join(f" {cell:>16s}" for cell in cells))
    for row in rows:
        recovered = "not by the end" if row["recovery_s"] is None else f"{row['recovery_s']:.1f} s after the step"
        late = "; the client was late" if row["client_too_late"] else ""
        late += "; others ran on the machine" if row["disturbed"] else ""
        shares = f"{100 * row['refused']:.1f} % refused, {100 * row['failed']:.1f} % failed {row['errors'] or ''}"
        print(f"{row['competitor']:12s} recovered {recovered}, {shares}{late}")


def low_loads(bench: Bench) -> list[Row]:
    """Return every competitor's figures at low load, beside those of an engine in this process."""
    options = bench.options
    _, policies = policies_of(bench.stored)
    in_force = PolicyInForce(policies["full_depth"])
    engine = start_engine(bench.executor, in_force)
    here = EngineHere(engine, in_force, policies, bench.stored.text_encoder.encode_batch(bench.texts))
    count = min(options.low_texts, len(bench.texts))
    here.p50_ms("full_depth", range(min(50, count)))  # warm up
    rows: list[Row] = []
    print(f"\nlow load, p50 in ms: {count} texts one at a time, and paced at {options.low_rate:g}/s")
    print(f"{'competitor':12s} {_LOW_HEAD}")
    try:
        for competitor in options.competitors:
            with bench.stand(competitor) as stand:
                pace = {"rate": options.low_rate, "seconds": options.seconds, "seed": SEED}
                row = low_load(stand, here, count=count, **pace)
            cells = [f"{row[name]:9.2f}" if name in row else f"{'':9s}" for name in _LOW_COLUMNS]
            print(f"{competitor:12s} {' '.join(cells)}{'~' if row['disturbed'] else ''}", flush=True)
            rows.append({"kind": "low_load", **row})
    finally:
        engine.close()
    return rows


_LOW_COLUMNS = {
    "http_closed_ms": "HTTP",
    "server_total_ms": "server",
    "server_tokenize_ms": "tokenize",
    "server_inference_ms": "inference",
    "server_decode_ms": "decode",
    "engine_closed_ms": "engine",
    "http_minus_engine_closed_ms": "HTTP-eng.",
    "http_paced_ms": "HTTP/s",
    "server_total_paced_ms": "server/s",
    "engine_paced_ms": "engine/s",
    "http_minus_engine_paced_ms": "HTTP-e./s",
    "cores_others": "others",
}
_LOW_HEAD = " ".join(f"{name:>9s}" for name in _LOW_COLUMNS.values())


def _note() -> str:
    load_average = os.getloadavg()[0]
    return (
        f"Server and client share {available_cores()} cores, the client at niceness {NICENESS} where that is allowed; "
        f"load average before the run: {load_average:.1f}."
    )


_LEGEND = f"""Latency counts from the scheduled arrival, inf: no answer in time.
goodput: answers a second within {GOAL_MS:.0f} ms.
late ms: p99 of the client's own lateness; '!' where it is over {LATE_MS:.0f} ms: the row says nothing of the server.
cores others: whatever else ran on the machine; '~' where it is over {DISTURBED_CORES}: the row is disturbed."""


def _document(bench: Bench, note: str, rows: list[Row]) -> Row:
    options = bench.options
    arguments = [shlex.quote(argument) for argument in sys.argv[1:]]
    told = [f"DATA/{options.file.name}" if argument == str(options.file) else argument for argument in arguments]
    return {
        "command": f"python -m benchmarks.load {' '.join(told)}",
        "model": bench.stored.reference,
        **bench.executor.describe(),
        "note": note,
        "versions": _versions(),
        "rows": rows,
    }


def _versions() -> dict[str, str | None]:
    """Return the versions of what the figures depend on; uvicorn uses uvloop and httptools if they are installed."""
    packages = ("transformers", "tokenizers", "fastapi", "uvicorn")
    optional = {name: version(name) if importlib.util.find_spec(name) else None for name in ("uvloop", "httptools")}
    found = {"python": platform.python_version(), "torch": torch.__version__}
    return {**found, **{name: version(name) for name in packages}, **optional}


if __name__ == "__main__":
    main()
