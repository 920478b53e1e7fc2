"""Certificates on simulated deployments and on traces: how often one is false, how soon a good level is certified.

    python -m benchmarks.certificates --json FILE
    python -m benchmarks.certificates --model conll2003-minilm --dev DEV_TRACE --traces TRACE ... --json FILE

Nothing is timed: "soon" is counted in samples. A trace, as `python -m service trace` writes it, stands for a stream of
traffic: its sentences are drawn again and again at random, and all operating points of the model are tested on them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.promise_seeds import seeded_shares
from benchmarks.simulated_traffic import Deployments, bursty, drifting, independent, resampled, simulate
from service.assets import assets_of
from service.evaluation.trace import Trace, load_trace
from service.exits.operating_points import Calibration
from service.exits.policy import ExitPolicy
from service.models.store import find_model, load_model
from service.promise.agreement import Promise, excess
from service.promise.certificates import Terms
from service.promise.scoring import LevelScorer, Scores
from service.spans.types import DoubleArray, IntArray

DEPLOYMENTS = 2_000
OF_TRACES = 300
LOOKS = (100, 200, 400, 1_000, 2_000)  # samples after which the layers saved are told


def main() -> None:
    """Simulate, replay, and print one JSON object a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--store", type=Path, default=Path("model_store"))
    parser.add_argument("--dev", type=Path, help="the trace that bets are seeded from")
    parser.add_argument("--traces", type=Path, nargs="*", default=[])
    parser.add_argument("--disagreements", type=float, nargs="+", default=[0.02, 0.05, 0.1])
    parser.add_argument("--json", type=Path, help="write the rows here")
    options = parser.parse_args()
    rows = simulated()
    if options.traces:
        if options.model is None:
            parser.error("--traces needs --model, whose operating points are tested on them")
        levels = _levels(options.store, options.model)
        dev = None if options.dev is None else _scores(load_trace(options.dev), levels)
        for path in options.traces:
            found = load_trace(path)
            rows += traced(path.stem, found.num_layers, _scores(found, levels), dev, options.disagreements)
    for row in rows:
        print(json.dumps(row))
    if options.json:
        options.json.write_text(json.dumps({"command": "benchmarks.certificates", "rows": rows}, indent=1) + "\n")


def simulated() -> list[dict[str, Any]]:
    """Return a row per stream: levels are good by a wide margin, good, hardly bad, and bad; or become so."""
    promise, n = Promise(0.05), DEPLOYMENTS
    whole, parts = Terms(window=1_500), Terms(window=500, horizon=3)
    quiet, peak = (0.995, 0.985, 0.965, 0.96), (0.985, 0.96, 0.93, 0.92)
    good, bad = (0.985, 0.97, 0.96, 0.955), (0.96, 0.945, 0.9, 0.88)
    streams = {
        "independent": (independent(promise, n, (0.985, 0.97, 0.9495, 0.94)), whole),
        "bursty": (bursty(promise, n, quiet, peak, weight=4, mean_steps=40), whole),
        "drifting to worse": (drifting(promise, n, good, bad, change=300, length=300), parts),
        "drifting to better": (drifting(promise, n, bad, good, change=300, length=300), parts),
    }
    rows = []
    for name, (traffic, terms) in streams.items():
        found = simulate(traffic, terms, deployments=n, levels=4, steps=1_500, most_payoff=promise.most_payoff)
        rows.append({"stream": name, "delta": terms.delta, "deployments": n, **summary(found)})
    return rows


def summary(found: Deployments) -> dict[str, Any]:
    """Return false certificates and, by level, the share ever certified and the median samples until then."""
    ever = found.certified_at > 0
    medians = [
        float(np.median(at[was])) if was.any() else None for at, was in zip(found.certified_at.T, ever.T, strict=True)
    ]
    return {
        "false": round(float(found.is_false.mean()), 4),
        "ever_certified": np.round(ever.mean(axis=0), 4).tolist(),
        "median_steps": medians,
        "in_force_at_end": np.round(found.in_force.mean(axis=0), 4).tolist(),
        "alarms": round(float(found.alarms.mean()), 4),
    }


def traced(
    name: str, num_layers: int, scores: Scores, dev: Scores | None, disagreements: Sequence[float]
) -> list[dict[str, Any]]:
    """Return a row per promise: layers saved by the fastest certified level, of those that the best one saves."""
    rows = []
    agreement = 1 - scores.errors.sum(axis=0) / np.maximum(scores.answered.sum(axis=0), 1)
    layers = scores.exit_layers.mean(axis=0)
    for disagreement in disagreements:
        promise = Promise(disagreement)
        payoffs = promise.payoffs(scores)
        shares = None if dev is None else seeded_shares(promise.payoffs(dev))
        levels = payoffs.shape[1]
        traffic = resampled(OF_TRACES, payoffs)
        found = simulate(
            traffic,
            Terms(),
            deployments=OF_TRACES,
            levels=levels,
            steps=LOOKS[-1],
            most_payoff=promise.most_payoff,
            shares=shares,
        )
        good = np.flatnonzero(agreement >= promise.agreement)
        beyond = excess(scores, promise.max_errors)[:, good].sum() / max(1, scores.errors[:, good].sum())
        rows.append(
            {
                "trace": name,
                "max_disagreement": disagreement,
                "false": round(float(found.is_false.mean()), 4),
                "errors_uncounted": round(float(beyond), 4),
                "saved_after_samples": _saved(found, layers, good, num_layers),
            }
        )
    return rows


def _saved(found: Deployments, layers: DoubleArray, good: IntArray, num_layers: int) -> Mapping[str, float | None]:
    """Return by samples the layers saved by the level in force, divided by those that the fastest good level saves."""
    best = num_layers - layers[good].min() if len(good) else 0.0
    saved: dict[str, float | None] = {}
    for look in LOOKS:
        fastest = ((found.certified_at > 0) & (found.certified_at <= look)).sum(axis=1) - 1
        now = np.where(fastest >= 0, num_layers - layers[np.maximum(fastest, 0)], 0.0).mean()
        saved[str(look)] = round(float(now / best), 3) if best else None
    return saved


def _levels(store: Path, name: str) -> list[ExitPolicy]:
    """Return the operating points of a model, the safest first."""
    stored = load_model(find_model(name, store))
    if stored.operating_points is None:
        raise SystemExit(f"{name} has no operating points; calibrate it first")
    assets = assets_of(stored.model)
    calibration = Calibration.from_json(stored.operating_points, assets)
    catalog = calibration.catalog(assets)
    points = sorted(calibration.points, key=lambda point: point.speedup_latency)
    return [catalog.policy(point.parameters) for point in points]


def _scores(found: Trace, levels: Sequence[ExitPolicy]) -> Scores:
    return LevelScorer(levels, found.num_layers).score(found.readings, [s.owned for s in found.sequences])


if __name__ == "__main__":
    main()
