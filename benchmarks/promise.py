"""What a promise of agreement keeps and saves on streams of ten corpora, and how soon it notices that texts change.

    python -m benchmarks.promise MODEL --data DATA --traces FOLDER --json FILE --figure FILE

Each corpus's test set is run to full depth once, and the trace is kept in FOLDER. Streams of its sentences, drawn with
replacement, are played through the server's own keeper and certificates (see `benchmarks.promise_streams`). Told are
the agreement of what was served, and the layers saved, of those that the best level in hindsight saves; then streams of
Wikipedia that are followed by tweets; and, to compare, the disagreement of two presets and of the fastest
level that the autopilot may use without certificates. Nothing is timed: "soon" is counted in samples.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engines import executor_of, load
from benchmarks.promise_figure import draw
from benchmarks.promise_streams import Material, play
from benchmarks.promise_traces import add_traced, traces_of
from service.assets import assets_of
from service.exits.operating_points import Calibration
from service.exits.policy import ExitPolicy
from service.policy.goals import Goals, Objective
from service.policy.promised import PromiseGoal
from service.promise.agreement import excess

DISAGREEMENTS = (0.02, 0.05, 0.1)
SEEDS = range(5)
LENGTH, AFTER = 20_000, 50_000  # sentences of a stream, and of what follows where texts change
CHANGES = (("wikigold", "tweebank"), ("redocred", "btc"))
AUTOPILOT = Objective(p95_ms=100, max_f1_loss=1.0)  # in a peak it goes to the fastest level that this allows
Row = dict[str, Any]


def main() -> None:
    """Trace, play, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_traced(parser)
    parser.add_argument("--figure", type=Path, help="draw them here")
    parser.add_argument(
        "--seeded",
        action="store_true",
        help="show only what is saved at the two smaller disagreements, without a seed and with the best one",
    )
    options = parser.parse_args()
    stored = load(options.model, options.store)
    if stored.operating_points is None:
        parser.error(f"{stored.reference} has no operating points; calibrate it first")
    assets = assets_of(stored.model)
    calibration = Calibration.from_json(stored.operating_points, assets)
    goals = Goals.of(stored.reference, assets, calibration)
    by_hand = uncertified(goals, calibration)
    executor = executor_of(options, stored.model)
    traces = traces_of(stored, executor, options.data, options.traces)
    executor.close()
    policies = (*goals.levels_to_certify(), *by_hand.values())
    corpora = {name: Material.of(trace, policies) for name, trace in traces.items()}
    if options.seeded:
        for wish in DISAGREEMENTS[:2]:
            for name, corpus in corpora.items():
                rows = [promised(goals, PromiseGoal(wish), corpus, is_seeded=is_seeded) for is_seeded in (False, True)]
                print(wish, name, *(row["saved_at_end"] for row in rows), flush=True)
        return
    told = study(goals, by_hand, corpora)
    if options.json:
        found = {"command": "benchmarks.promise", "model": stored.reference, **told}
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if options.figure:
        draw(told, options.figure)


def uncertified(goals: Goals, calibration: Calibration) -> dict[str, ExitPolicy]:
    """Return what is served without certificates: two presets, and the autopilot's fastest level."""
    presets = {
        name: goals.catalog.policy(calibration.choose("preset", name).parameters) for name in ("balanced", "fast")
    }
    return {**presets, "autopilot": goals.ladder(AUTOPILOT).policies[-1]}


def study(goals: Goals, by_hand: Mapping[str, ExitPolicy], corpora: Mapping[str, Material]) -> dict[str, list[Row]]:
    """Return a row per corpus without a promise, per corpus and promise, and per change of texts and promise."""
    told: dict[str, list[Row]] = {"uncertified": [], "promised": [], "changed": []}

    def tell(kind: str, row: Row) -> None:
        told[kind].append(row)
        print(
            json.dumps({"kind": kind, **{name: value for name, value in row.items() if name != "streams"}}), flush=True
        )

    for corpus in corpora.values():
        tell("uncertified", without_promise(corpus, by_hand))
    for wish in DISAGREEMENTS:
        for corpus in corpora.values():
            tell("promised", promised(goals, PromiseGoal(wish), corpus))
        for before, after in CHANGES:
            tell("changed", changed(goals, PromiseGoal(wish), corpora[before], corpora[after]))
    return told


def without_promise(corpus: Material, by_hand: Mapping[str, ExitPolicy]) -> Row:
    """Return the disagreement and the average exit layer of what is served without certificates."""
    place = {name: corpus.policies.index(policy) for name, policy in by_hand.items()}
    return {
        "corpus": corpus.name,
        "sentences": len(corpus.scores.exit_layers),
        "entities_per_sentence": _digits(corpus.scores.true_positives[:, -1].mean()),
        "disagreement": {name: _digits(corpus.disagreement[at]) for name, at in place.items()},
        "average_exit_layer": {name: _digits(corpus.layers[at]) for name, at in place.items()},
        "gold_f1_loss": {
            name: _digits(corpus.gold_loss(np.eye(len(corpus.policies))[at])) for name, at in place.items()
        },
    }


def promised(goals: Goals, goal: PromiseGoal, corpus: Material, *, is_seeded: bool = False) -> Row:
    """Return what streams of a corpus get under a promise: the worst, the mean, and each."""
    streams = [_stream(goals, goal, corpus, seed, is_seeded=is_seeded) for seed in SEEDS]
    shares = [stream["saved_at_end"] for stream in streams if stream["saved_at_end"] is not None]
    return {
        "corpus": corpus.name,
        "max_disagreement": goal.max_disagreement,
        "kept": sum(stream["kept"] for stream in streams),
        "worst_disagreement": max(stream["disagreement"] for stream in streams),
        "worst_under_certificates": max(stream["disagreement_under_certificates"] or 0.0 for stream in streams),
        "saved_at_end": _digits(np.mean(shares)) if shares else None,
        "average_exit_layer": _digits(np.mean([stream["average_exit_layer"] for stream in streams])),
        "errors_uncounted": _uncounted(goals, goal, corpus),
        "streams": streams,
    }


def _uncounted(goals: Goals, goal: PromiseGoal, corpus: Material) -> float | None:
    """Return which share of the errors of levels that keep the promise is beyond those that count in a sentence."""
    errors = corpus.scores.errors[:, : len(goals.levels_to_certify())]
    good = corpus.disagreement[: errors.shape[1]] <= goal.max_disagreement
    beyond = excess(corpus.scores, goal.promise.max_errors)[:, : errors.shape[1]][:, good].sum()
    return _digits(beyond / errors[:, good].sum()) if errors[:, good].any() else None


def _stream(goals: Goals, goal: PromiseGoal, corpus: Material, seed: int, *, is_seeded: bool) -> Row:
    played = play(goals, goal, [(corpus, LENGTH)], seed, is_seeded=is_seeded)
    scores, full = corpus.scores, len(corpus.policies) - 1
    errors = scores.errors[played.rows, played.served]
    answered = scores.answered[played.rows, played.served]
    layers = scores.exit_layers[played.rows, played.served]
    is_early = played.served != full
    disagreement = errors.sum() / max(answered.sum(), 1)
    under = errors[is_early].sum() / answered[is_early].sum() if is_early.any() else None
    tested = slice(0, len(goals.levels_to_certify()))
    of_levels = scores.errors[played.rows, tested].sum(axis=0) / scores.answered[played.rows, tested].sum(axis=0)
    saved = scores.exit_layers[:, full].mean() - scores.exit_layers[played.rows].mean(axis=0)
    best = saved[tested][of_levels <= goal.max_disagreement].max(initial=0.0)
    shares = np.bincount(played.served, minlength=full + 1) / LENGTH
    return {
        "seed": seed,
        "samples": len(played.sampled),
        "disagreement": _digits(disagreement),
        "disagreement_under_certificates": None if under is None else _digits(under),
        "kept": bool(max(disagreement, under or 0.0) <= goal.max_disagreement),
        "first_certified_after": int((played.sampled < is_early.argmax()).sum()) if is_early.any() else None,
        "saved_at_end": _digits(saved[played.served[-1]] / best) if best else None,
        "average_exit_layer": _digits(layers.mean()),
        "gold_f1_loss": _digits(corpus.gold_loss(shares)),
        "moves": played.moves,
        "alarms": played.alarms,
    }


def changed(goals: Goals, goal: PromiseGoal, before: Material, after: Material) -> Row:
    """Return how many samples after texts have changed the served level is right, and stays it to the end."""
    streams = []
    for seed in SEEDS:
        played = play(goals, goal, [(before, LENGTH), (after, AFTER)], seed)
        of_samples = played.served[played.sampled]  # what served each sample; what a sample moved comes after it
        since = int((played.sampled < LENGTH).sum())
        wrong = np.flatnonzero(after.disagreement[of_samples[since:]] > goal.max_disagreement)
        is_right = not len(wrong) or wrong[-1] + 1 < len(of_samples) - since
        streams.append(
            {
                "seed": seed,
                "samples_until_right": int(wrong[-1]) + 1 if len(wrong) and is_right else 0 if is_right else None,
                "disagreement_after": _digits(_of(after, played.rows[LENGTH:], played.served[LENGTH:])),
                "true_disagreement": _steps(
                    [*before.disagreement[of_samples[:since]], *after.disagreement[of_samples[since:]]], since
                ),
                "alarms": played.alarms,
            }
        )
    return {
        "before": before.name,
        "after": after.name,
        "max_disagreement": goal.max_disagreement,
        "samples_until_right": [stream["samples_until_right"] for stream in streams],
        "disagreement_after": [stream["disagreement_after"] for stream in streams],
        "streams": streams,
    }


def _steps(values: Sequence[float], since: int) -> list[list[float]]:
    """Return where values by sample change, counted from the sample `since`, and to what; and the last one."""
    changes = [at for at, value in enumerate(values) if at in (0, len(values) - 1) or value != values[at - 1]]
    return [[at - since, _digits(values[at])] for at in changes]


def _of(corpus: Material, rows: Any, served: Any) -> float:
    """Return the disagreement of some sentences as they were served."""
    return float(corpus.scores.errors[rows, served].sum() / max(corpus.scores.answered[rows, served].sum(), 1))


def _digits(value: Any) -> float:
    return round(float(value), 4)


if __name__ == "__main__":
    main()
