"""Cost against depth, length, labels and concurrency, as curves with the bound drawn in: the layers that had to run.

    python -m benchmarks.curves conll2003-minilm DATA/conll2003/test.conll --figure docs/curves.png --json FILE

All texts go through the engine, in this process. The bound of a point is the time in which layers and their exits ran,
in the same run as the point: the time that an engine that costs nothing would take.
"""

from __future__ import annotations

import argparse
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.engines import PolicyInForce, add_executor, draw_texts, executor_of, load, policies_of, start_engine
from benchmarks.exit_cost import random_model, random_sequence
from benchmarks.watched import Watched
from service.engine.engine import Engine
from service.engine.sequence import Request
from service.exits.policies.full_depth import FullDepth
from service.exits.policies.sentee import Sentee
from service.text.types import EncodedText

LENGTHS = (8, 16, 32, 64, 128, 256)  # pieces
LABELS = (2, 3, 5, 8, 12, 16, 24)  # K, no entity included
CLIENTS = (1, 2, 4, 8, 16, 32, 64)
ROUNDS = 3
OF_RANDOM_TEXTS = 60


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a curve: the engine's milliseconds per text, and those in which layers and exits ran (bound)."""

    panel: str
    curve: str
    x: float
    ms: float
    bound_ms: float


def main() -> None:
    """Measure, print the points, and draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("file", type=Path)
    parser.add_argument("--store", type=Path, default=Path("model_store"))
    parser.add_argument("--texts", type=int, default=300)
    parser.add_argument("--figure", type=Path, help="draw the curves here")
    parser.add_argument("--json", type=Path, help="write the points here")
    add_executor(parser)
    options = parser.parse_args()
    points = []
    for point in itertools.chain(_of_a_model(options), _of_lengths_and_labels(options)):
        told = f"{point.ms:8.3f} ms a text, bound {point.bound_ms:8.3f} ({point.bound_ms / point.ms:.2f})"
        print(f"{point.panel:12s} {point.curve:20s} {point.x:6g} {told}", flush=True)
        points.append(point)
    if options.json:
        command = f"python -m benchmarks.curves {options.model} DATA/{options.file.name}"
        document = {"command": command, "points": [asdict(point) for point in points]}
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if options.figure:
        _draw(points, options.figure)


def _of_a_model(options: argparse.Namespace) -> Iterator[Point]:
    """Yield the points over depth, one text at a time, and over concurrency, under full depth and preset balanced."""
    stored = load(options.model, options.store)
    _, policies = policies_of(stored)
    texts = draw_texts(stored, options.file, options.texts)
    executor = Watched(executor_of(options, stored.model))
    in_force = PolicyInForce(policies["full_depth"])
    engine = start_engine(executor, in_force)
    num_layers = stored.config.num_layers
    _run(engine, texts[:20], 1)
    for layer in range(1, num_layers + 1):
        in_force.policy = policies.get(f"budgeted {layer}", policies["full_depth"])
        ms, bound = _best(executor, lambda: _run(engine, texts, 1))
        yield Point("depth", "one exit", layer, ms / len(texts), bound / len(texts))
    for name in ("full_depth", "balanced"):
        in_force.policy = policies[name]
        for clients in CLIENTS:
            ms, bound = _best(executor, lambda clients=clients: _run(engine, texts, clients))  # type: ignore[misc]
            yield Point("concurrency", name, clients, ms / len(texts), bound / len(texts))
    engine.close()


def _of_lengths_and_labels(options: argparse.Namespace) -> Iterator[Point]:
    """Yield the points of random models of MiniLM's shape and three layers, with one exit and with three."""
    cases = [("length", length, length, 5) for length in LENGTHS]
    cases += [("labels", labels, 32, labels) for labels in LABELS]
    for panel, x, length, labels in cases:
        executor = Watched(executor_of(options, random_model(384, labels)))
        in_force = PolicyInForce(FullDepth())
        engine = start_engine(executor, in_force)
        texts = [EncodedText("", (random_sequence(length),))] * OF_RANDOM_TEXTS
        for name, policy in (("one exit", FullDepth()), ("an exit a layer", Sentee(0.0))):
            in_force.policy = policy
            _run(engine, texts, 1)
            ms, bound = _best(executor, lambda engine=engine, texts=texts: _run(engine, texts, 1))  # type: ignore[misc]
            yield Point(panel, name, x, ms / len(texts), bound / len(texts))
        engine.close()
        executor.close()


def _best(executor: Watched, run: Callable[[], float]) -> tuple[float, float]:
    """Return the milliseconds of the fastest round, and those in which its executor was busy."""
    found = []
    for _ in range(ROUNDS):
        executor.busy_s = 0.0
        seconds = run()
        found.append((1_000 * seconds, 1_000 * executor.busy_s))
    return min(found)


def _run(engine: Engine, texts: Sequence[EncodedText], clients: int) -> float:
    """Return the seconds for all texts, if each client sends its next text when it has the answer to the last."""
    waiting = iter(texts)
    taking = threading.Lock()

    def send() -> None:
        while True:
            with taking:
                text = next(waiting, None)
            if text is None:
                return
            request = Request((text,), deadline=float("inf"), submitted=0.0)
            engine.submit(request)
            request.future.result()

    threads = [threading.Thread(target=send) for _ in range(clients - 1)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    send()
    for thread in threads:
        thread.join()
    return time.perf_counter() - started


def _draw(points: Sequence[Point], path: Path) -> None:
    """Draw four panels; the dashed line of a curve's colour is its bound."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    names = {"depth": "layers that ran", "concurrency": "clients", "length": "word pieces", "labels": "labels, K"}
    figure, axes = pyplot.subplots(2, 2, figsize=(9, 6.4), constrained_layout=True)
    for axis, (panel, title) in zip(axes.flat, names.items(), strict=True):
        own = [point for point in points if point.panel == panel]
        for index, curve in enumerate(dict.fromkeys(point.curve for point in own)):
            of_curve = [point for point in own if point.curve == curve]
            xs = [point.x for point in of_curve]
            axis.plot(xs, [point.ms for point in of_curve], color=f"C{index}", marker="o", ms=3, label=curve)
            axis.plot(xs, [point.bound_ms for point in of_curve], color=f"C{index}", linestyle="--", lw=1)
        axis.set_xlabel(title)
        axis.set_ylabel("ms a text")
        axis.set_ylim(bottom=0)
        if panel in ("concurrency", "length"):
            axis.set_xscale("log", base=2)
        axis.grid(alpha=0.25)
        axis.legend(frameon=False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
