"""What operating points fitted to samples of a traffic save on its other sentences, beside the model's own points.

    python -m benchmarks.traffic_fits general-minilm --data DATA --traces TRACES --json FILE

A traffic is the test sets of some corpora, traced as `benchmarks.promise` does. Half of its sentences are the samples
that are fitted to, by the server's own numbers and the command's own fit; of the other half is told how many layers the
fastest point within each of some disagreements saves. The model's own points are told on the same half. Nothing is
timed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.engines import executor_of, load
from benchmarks.promise_traces import CORPORA, add_traced, traces_of
from service.assets import assets_of
from service.errors import DataRefused
from service.evaluation.trace import Trace
from service.evaluation.traffic import JUDGED_AT, Cuts, disagreement, fit_to_traffic, layers_at, worths
from service.exits.operating_points import Calibration
from service.exits.policies.learned import Learned
from service.promise.records import RecordBuffer, SampleRecords

TRAFFICS = {
    "tweets": ("tweebank", "btc", "wnut17", "idrisi"),
    "articles": ("wikigold", "redocred", "crossner_politics", "crossner_science"),
    "commands": ("slurp", "snips"),
    "all": CORPORA,
}
SEED = 0
Row = dict[str, Any]


def records_of(traces: Sequence[Trace]) -> SampleRecords:
    """Return the numbers of every sentence of some traces, in random order."""
    count = sum(len(trace.sequences) for trace in traces)
    buffer = RecordBuffer(count, traces[0].num_layers)
    for trace in traces:
        of_exits = [reading.split() for reading in trace.readings]
        for index, sequence in enumerate(trace.sequences):
            buffer.add([of_exit[index] for of_exit in of_exits], sequence.owned, sequence.num_pieces, 1.0)
    return buffer.records().part(np.random.default_rng(SEED).permutation(count))


def saved(records: SampleRecords, cuts: Cuts) -> list[float]:
    """Return the layers that the fastest point within each of JUDGED_AT saves."""
    worth = worths(cuts.rule, records)
    outcomes = [(0.0, 0.0)]
    for tau in cuts.taus:
        layers = layers_at(worth, tau, cuts.deepest_exit)
        outcomes.append((float(disagreement(records, layers, records.weights)), records.num_layers - layers.mean()))
    return [round(float(max(layers for missed, layers in outcomes if missed <= wish)), 3) for wish in JUDGED_AT]


def study(name: str, records: SampleRecords, own: Cuts) -> Row:
    """Return what points fitted to one half of a traffic save on the other, beside the model's own."""
    half = len(records) // 2
    samples, others = records.part(slice(half)), records.part(slice(half, None))
    row: Row = {"traffic": name, "samples": len(samples), "own": saved(others, own)}
    try:
        fit = fit_to_traffic(samples, [own])
    except DataRefused as error:
        return {**row, "refused": str(error)}
    return {**row, "fitted": saved(others, fit.cuts), "is_rule_new": fit.is_rule_new, "told_gain": round(fit.gain, 3)}


def main() -> None:
    """Trace, fit, and print a line per traffic."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_traced(parser)
    options = parser.parse_args()
    stored = load(options.model, options.store)
    if stored.operating_points is None:
        parser.error(f"{stored.reference} has no operating points; calibrate it first")
    calibration = Calibration.from_json(stored.operating_points, assets_of(stored.model))
    found = [point.parameters for point in calibration.points if point.parameters["strategy"] == Learned.strategy]
    if calibration.rule is None or not found:
        parser.error(f"{stored.reference} has no operating points of the learned rule")
    deepest = min(max(one["deepest_exit"] for one in found), stored.config.num_layers - 1)
    own = Cuts(calibration.rule, tuple(sorted({one["tau"] for one in found})), deepest)
    executor = executor_of(options, stored.model)
    traces = traces_of(stored, executor, options.data, options.traces)
    executor.close()
    rows = []
    for name, corpora in TRAFFICS.items():
        rows.append(study(name, records_of([traces[corpus] for corpus in corpora]), own))
        print(json.dumps(rows[-1]), flush=True)
    if options.json:
        told = {"command": "benchmarks.traffic_fits", "model": stored.reference, "within": JUDGED_AT, "traffics": rows}
        options.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
