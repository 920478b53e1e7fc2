"""What sampling costs those who wait: two servers that differ in it alone take turns, in one run.

    python -m benchmarks.sampling_cost general-minilm DATA/conll2003/test.conll --json FILE

Capacity is told by a closed loop of many requests at a time, a text each. Then requests arrive by a Poisson process at
a share of the capacity without sampling, at the same moments for both servers, and their p99 is told: there the samples
run in between. A round measures both servers, and the order turns round with every round; ratios are of one round. A
server's samples are all run before the other one is measured. It takes some two minutes; nothing else should run.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.load_client import Plan, Report
from benchmarks.load_servers import ADMIN_KEY, Server, start_checkout
from benchmarks.load_trials import Client, Cores, Seen, arrivals, figures
from benchmarks.peers import processor
from service.data.readers import read_examples
from service.models.device import available_cores

HERE = Path(__file__).resolve().parent.parent
AT_ONCE = 32
GRACE_S, CLOSED_TIMEOUT_S, IDLE_TIMEOUT_S = 5.0, 60.0, 30.0
WARM_UP, FIRST_LOOK = 300, 2_000  # requests
SEED = 1
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Way:
    """A running server, and whether it samples."""

    name: str
    server: Server
    client: Client
    num_texts: int

    def closed(self, count: int, seed: int) -> float:
        """Return how many requests a second are answered while AT_ONCE are under way."""
        report = self._carry_out(self._draw(count, seed), None, CLOSED_TIMEOUT_S)
        if report.errors:
            raise SystemExit(f"{self.name}: {report.errors}; see {self.server.log}")
        return count / max(report.done)

    def open(self, rate: float, seconds: float, seed: int) -> Row:
        """Return p50 and p99 of requests that arrive at a rate, and how the cores were used."""
        due, before, started = arrivals([(rate, seconds)], seed), self.server.cpu_s(), time.monotonic()
        report = self._carry_out(self._draw(len(due), seed), due, GRACE_S)
        lasted = time.monotonic() - started
        cores = Cores((self.server.cpu_s() - before) / lasted, report.cpu_s / lasted, 0.0)
        found = figures(Seen(report, seconds, cores))
        return {
            **{name: round(getattr(found, name), 3) for name in ("p50_ms", "p99_ms", "cores_server", "refused")},
            "client_too_late": found.is_late,
        }

    def samples(self) -> int:
        """Wait until all samples have been run; return how many there have been so far."""
        deadline = time.monotonic() + IDLE_TIMEOUT_S
        while time.monotonic() < deadline:
            request = urllib.request.Request(f"{self.server.url}/exit-policy/levels")
            with urllib.request.urlopen(request) as answer:
                sampling = json.load(answer)["sampling"]
            if sampling is None or not sampling["waiting"]:
                return int(sampling["samples"]) if sampling else 0
            time.sleep(0.2)
        raise SystemExit(f"{self.name}: its samples were not run within {IDLE_TIMEOUT_S:g} s")

    def _draw(self, count: int, seed: int) -> list[int]:
        draw = random.Random(seed)
        return [draw.randrange(self.num_texts) for _ in range(count)]

    def _carry_out(self, texts: list[int], due: list[float] | None, grace_s: float) -> Report:
        return self.client.carry_out(Plan(self.server.port, texts, due, grace_s, at_once=AT_ONCE))


def start(options: argparse.Namespace, fraction: float, folder: Path) -> Server:
    """Start a server that samples such a fraction, under the policy that is asked for."""
    folder.mkdir()
    settings = {"NER_MODEL": options.model, "NER_ADMIN_KEY": ADMIN_KEY, "NER_SHADOW_FRACTION": "0"}
    server = start_checkout(HERE, {**settings, "NER_SAMPLE_FRACTION": str(fraction)}, folder)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {ADMIN_KEY}"}
    body = json.dumps({"preset": options.preset}).encode()
    urllib.request.urlopen(urllib.request.Request(f"{server.url}/exit-policy", body, headers, method="PATCH")).close()
    return server


def rounds(ways: Sequence[Way], options: argparse.Namespace) -> list[Row]:
    """Return a row for every round: what each of the two ways gave."""
    for way in ways:
        way.closed(WARM_UP, SEED)
    capacity = min(way.closed(FIRST_LOOK, SEED) for way in ways)
    count, rate = int(options.seconds * capacity), options.share * capacity
    rows: list[Row] = []
    for number in range(options.rounds):
        row: Row = {"round": number, "rate": round(rate, 1)}
        for way in (*ways,) if number % 2 else (*reversed(ways),):
            before = way.samples()
            answered = way.closed(count, SEED + number)
            way.samples()
            row[way.name] = {"capacity": round(answered, 1), **way.open(rate, options.seconds, SEED + number)}
            row[way.name]["samples"] = way.samples() - before
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def ratios(rows: Sequence[Row], figure: str) -> Row:
    """Return the ratio of a figure with sampling to that without: the median of the rounds, the least and the most."""
    found = sorted(row["on"][figure] / row["off"][figure] for row in rows)
    return {
        "figure": figure,
        "off": round(statistics.median(row["off"][figure] for row in rows), 3),
        "on": round(statistics.median(row["on"][figure] for row in rows), 3),
        "ratio": round(statistics.median(found), 4),
        "least": round(found[0], 4),
        "most": round(found[-1], 4),
    }


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("file", type=Path, help="annotated texts, of which requests are made")
    parser.add_argument("--fraction", type=float, default=0.01, help="of sentences that are sampled")
    parser.add_argument("--preset", default="balanced", help="the policy")
    parser.add_argument("--share", type=float, default=0.6, help="of the capacity, at which p99 is told")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load")
    parser.add_argument("--texts", type=int, default=600)
    parser.add_argument("--json", type=Path, help="write the rows here")
    options = parser.parse_args()
    examples = read_examples(options.file)
    texts = [example.text for example in random.Random(0).sample(examples, min(options.texts, len(examples)))]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        client = stack.enter_context(Client(texts))
        ways = []
        for name, fraction in (("off", 0.0), ("on", options.fraction)):
            server = start(options, fraction, folder / name)
            stack.callback(server.close)
            ways.append(Way(name, server, client, len(texts)))
        rows = rounds(ways, options)
    told = [ratios(rows, figure) for figure in ("capacity", "p50_ms", "p99_ms")]
    for row in told:
        print(
            f"{row['figure']:9} off {row['off']:9.2f}   on {row['on']:9.2f}   on / off {row['ratio']:.4f} "
            f"({row['least']:.4f} to {row['most']:.4f})"
        )
    if options.json:
        command = f"python -m benchmarks.sampling_cost {options.model} DATA/{options.file.name}"
        document = {"command": command, "processor": processor(), "cores": available_cores()}
        document |= {"fraction": options.fraction, "preset": options.preset, "share": options.share}
        options.json.write_text(json.dumps({**document, "ratios": told, "rounds": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
