"""Capacity of a fleet: a simulation of it from measured costs, first held against real servers.

    python -m benchmarks.capacity general-minilm DATA/conll2003/test.conll

does all of it, on a machine that has nothing else to do: measures what layers, exits and Python take here, holds the
simulation against one and two serving processes at five loads, then simulates fleets. Results and figures go where
`docs.generate` makes docs/scale.md of them. Parts of it:

    python -m benchmarks.capacity general-minilm DATA/conll2003/test.conll --only measure,validate
    python -m benchmarks.capacity --only simulate

The second needs neither model nor texts, only what was measured, and is deterministic. `benchmarks/simulated_fleet` has
the simulation.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.engines import load
from benchmarks.peers import processor
from benchmarks.simulated_fleet import sizing, validation
from benchmarks.simulated_fleet.costs import Costs
from benchmarks.simulated_fleet.measuring import measure
from benchmarks.simulated_fleet.pictures import draw_fleet, draw_validation
from benchmarks.simulated_fleet.recorder import draw_texts
from benchmarks.simulated_fleet.recording import Recording
from service.models.device import available_cores

HERE = Path(__file__).resolve().parent.parent
PARTS = ("measure", "validate", "simulate")
COSTS, VALIDATION, FLEET = "capacity_costs.json", "capacity_validation.json", "capacity.json"
Row = dict[str, Any]


def main() -> None:
    """Do the parts that are asked for, print what they find, and write the files."""
    options = _options()
    if "measure" in options.only or "validate" in options.only:
        if options.model is None or options.file is None:
            raise SystemExit("measure and validate need a model and a file of texts; --only simulate needs neither")
        _measure(options)
    if "simulate" in options.only:
        _simulate(options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("file", type=Path, nargs="?")
    parser.add_argument("--store", type=Path, default=HERE / "model_store")
    parser.add_argument("--only", type=_parts, default=PARTS, help=f"some of {','.join(PARTS)}")
    parser.add_argument("--texts", type=int, default=1_500, help="how many, of one to eight sentences")
    parser.add_argument("--tries", type=int, default=9, help="of every layer step that is timed")
    parser.add_argument("--seconds", type=float, default=12.0, help="of each load of the validation")
    parser.add_argument("--processes", type=int, default=1, help="serving processes of a simulated replica")
    parser.add_argument("--cell", type=int, default=8, help="replicas behind one balancer: a power of two")
    parser.add_argument("--trial-seconds", type=float, default=4.0, help="of each simulated trial, once warm")
    parser.add_argument("--warm-up-seconds", type=float, default=4.0, help="before it, in which autopilots settle")
    parser.add_argument("--hour-seconds", type=float, default=5.0, help="that an hour of the simulated day lasts")
    parser.add_argument("--results", type=Path, default=HERE / "benchmarks/results", help="the folder of the results")
    parser.add_argument("--figures", type=Path, default=HERE / "docs", help="the folder of the figures")
    return parser.parse_args()


def _parts(listed: str) -> tuple[str, ...]:
    names = tuple(listed.split(","))
    if unknown := set(names) - set(PARTS):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))} unknown; expected some of {', '.join(PARTS)}")
    return names


def _measure(options: argparse.Namespace) -> None:
    """Measure the costs, write them, and hold the simulation against real servers where that is asked for."""
    stored = load(options.model, options.store)
    texts = draw_texts(options.file, options.texts)
    command = f"python -m benchmarks.capacity {options.model} DATA/{options.file.name}"
    started = time.monotonic()
    environment = {"command": command, "processor": processor(), "load_average": os.getloadavg()[0]}
    costs, recording = measure(stored, texts, options.tries, environment)
    _write(options.results / COSTS, {"costs": costs.to_json(), "recording": recording.to_json()}, indent=None)
    print(f"measured in {time.monotonic() - started:.0f} s; microseconds of Python: {costs.to_json()['python']}")
    if "validate" not in options.only:
        return
    rows: list[Row] = []
    print(validation.HEAD)
    for row in validation.validate(stored, texts, costs, recording, options.seconds):
        rows.append(row)
        print(validation.line(row), flush=True)
    within = validation.share_within(rows)
    print(
        f"within {100 * validation.WITHIN:.0f} %: " + ", ".join(f"{name} {share:.2f}" for name, share in within.items())
    )
    document = {**_told(costs), "seconds": options.seconds, "within": within, "rows": rows}
    _write(options.results / VALIDATION, document)
    draw_validation(rows, options.figures / "scale_validation.png")


def _simulate(options: argparse.Namespace) -> None:
    """Simulate fleets by the costs that were measured last."""
    path = options.results / COSTS
    if not path.is_file():
        raise SystemExit(f"{path} is not there; run this with --only measure first, on a machine that is quiet")
    read = json.loads(path.read_text(encoding="utf-8"))
    costs, recording = Costs.from_json(read["costs"]), Recording.from_json(read["recording"])
    plan = sizing.Plan(
        costs,
        recording,
        costs.environment["cores"],
        processes=options.processes,
        cell=options.cell,
        seconds=options.trial_seconds,
        warm_up_s=options.warm_up_seconds,
        hour_s=options.hour_seconds,
    )
    with ProcessPoolExecutor(available_cores()) as executor:  # what is simulated does not depend on how many there are
        document = {**_told(costs), **sizing.simulated(plan, executor, _printed)}
    _write(options.results / FLEET, document)
    draw_fleet(document, options.figures / "scale.png")


def _told(costs: Costs) -> Row:
    return {"environment": dict(costs.environment), "python": costs.to_json()["python"]}


def _printed(rows: Iterable[Row]) -> list[Row]:
    """Print rows as they come, and return them."""
    kept = []
    for row in rows:
        kept.append(row)
        told = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values())
        print("  ".join(told), flush=True)
    return kept


def _write(path: Path, document: Row, indent: int | None = 1) -> None:
    path.write_text(json.dumps(document, indent=indent) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
